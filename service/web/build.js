// Builds the page: dist/index.html for `/`, everything else in dist/assets for `/assets/`, each asset also gzipped beside itself.
// There is nothing to bundle: browsers load modules, and the one dependency ships a minified module of its own.
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const SOURCE = "src";
const DIST = "dist";
const ASSETS = `${DIST}/assets`;
const COMPRESSED = /\.(css|js|svg)$/;

rmSync(DIST, { recursive: true, force: true });
mkdirSync(DIST);
cpSync(SOURCE, ASSETS, { recursive: true });
renameSync(`${ASSETS}/index.html`, `${DIST}/index.html`);
cpSync("node_modules/3dmol/build/3Dmol.es6-min.js", `${ASSETS}/3Dmol.js`);
cpSync("node_modules/3dmol/build/3Dmol-min.js", `${DIST}/3Dmol-min.js`); // not served: galleries and notebooks inline it (model/chem/viewer.py)
cpSync("node_modules/3dmol/LICENSE", `${ASSETS}/3Dmol.LICENSE.txt`);

let total = gzipSync(readFileSync(`${DIST}/index.html`)).length;
for (const name of readdirSync(ASSETS).filter((name) => COMPRESSED.test(name))) {
  const packed = gzipSync(readFileSync(`${ASSETS}/${name}`), { level: 9 });
  writeFileSync(`${ASSETS}/${name}.gz`, packed);
  total += packed.length;
}
console.log(`page built: ${Math.round(total / 1000)} kB compressed`);

// Builds the page: dist/index.html for `/`, everything else in dist/assets for `/assets/`, each asset also gzipped beside itself.
// Our modules become one file, so that the first paint waits for four requests instead of forty. 3Dmol is loaded with the first molecule.
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const SOURCE = "src";
const DIST = "dist";
const ASSETS = `${DIST}/assets`;
const COMPRESSED = /\.(css|js|svg)$/;

rmSync(DIST, { recursive: true, force: true });
mkdirSync(ASSETS, { recursive: true });
await build({
  entryPoints: ["main.js", "theme.js", "style.css"].map((name) => `${SOURCE}/${name}`),
  outdir: ASSETS,
  bundle: true,
  minify: true,
  format: "esm",
  external: ["./3Dmol.js"],
});
copyFileSync(`${SOURCE}/index.html`, `${DIST}/index.html`);
copyFileSync(`${SOURCE}/icon.svg`, `${ASSETS}/icon.svg`);
copyFileSync("node_modules/3dmol/build/3Dmol.es6-min.js", `${ASSETS}/3Dmol.js`);
copyFileSync("node_modules/3dmol/build/3Dmol-min.js", `${DIST}/3Dmol-min.js`); // not served: galleries and notebooks inline it (model/chem/viewer.py)
copyFileSync("node_modules/3dmol/LICENSE", `${ASSETS}/3Dmol.LICENSE.txt`);

let total = gzipSync(readFileSync(`${DIST}/index.html`)).length;
for (const name of readdirSync(ASSETS).filter((name) => COMPRESSED.test(name))) {
  const packed = gzipSync(readFileSync(`${ASSETS}/${name}`), { level: 9 });
  writeFileSync(`${ASSETS}/${name}.gz`, packed);
  total += packed.length;
}
console.log(`page built: ${Math.round(total / 1000)} kB compressed`);

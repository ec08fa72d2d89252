// The files of molecules: XYZ, SDF, a table of comma-separated values, and all of them for a zip.
import { announce, button, download } from "./dom.js";
import { isParticles, nllOf } from "./molecule.js";
import { PROPERTIES } from "./properties.js";
import { zip } from "./zip.js";

const withEnd = (text) => (text.endsWith("\n") ? text : `${text}\n`);
// A record ends in $$$$; a bare molfile gets its own.
const record = (sdf) => (/\$\$\$\$\s*$/.test(sdf) ? withEnd(sdf) : `${withEnd(sdf)}$$$$\n`);

export const asXyz = (molecules) => molecules.map(({ xyz }) => withEnd(xyz)).join("");

export const asSdf = (molecules) => molecules.filter(({ sdf }) => sdf).map(({ sdf }) => record(sdf)).join("");

/** A file name that says where the molecule comes from. */
export const nameOf = (molecule) => `enflow-${molecule.seed ?? "x"}-${molecule.index}-${isParticles(molecule) ? molecule.model : molecule.formula}`;

const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

/** A table of comma-separated values with the names of the answer. */
export function asCsv(molecules) {
  const described = molecules.some(({ properties }) => properties);
  const columns = molecules.some(isParticles)
    ? ["index", "seed", "n_particles", "energy", "nll", "std_error"]
    : ["index", "seed", "formula", "smiles", "n_atoms", "valid", "stable", "nll", "std_error", "percentile"];
  const more = described ? ["inchikey", ...PROPERTIES.map(({ key }) => key), "connected", "novel"] : [];
  const cell = (value) => quoted(String(value ?? ""));
  const row = (molecule) => [
    ...columns.map((name) => cell(name === "nll" ? nllOf(molecule) : molecule[name])),
    ...more.map((name) => cell(molecule.properties?.[name])),
  ];
  return [[...columns, ...more], ...molecules.map(row)].map((cells) => cells.join(",")).join("\n") + "\n";
}

/** The files of a zip: each molecule in both formats, and a table of all. */
export function asFiles(molecules) {
  const files = molecules.flatMap((molecule) => [
    [`${nameOf(molecule)}.xyz`, asXyz([molecule])],
    ...(molecule.sdf ? [[`${nameOf(molecule)}.sdf`, asSdf([molecule])]] : []),
  ]);
  return [...files, ["molecules.csv", asCsv(molecules)]];
}

/** A button for each kind of file; particles have no SDF. */
export const saveButtons = (kinds, save) =>
  kinds.map((kind) => button(kind.toUpperCase(), () => save(kind), { class: kind === "sdf" ? "small molecular" : "small", "aria-label": `Download as ${kind.toUpperCase()}` }));

/** Downloads molecules as a file of this kind. Returns a note on those that it lacks. */
export function saveFile(molecules, kind, name) {
  if (!molecules.length) announce("Nothing is shown that could be saved");
  else if (kind === "zip") download(name, zip(asFiles(molecules)));
  else if (kind === "xyz") download(name, asXyz(molecules), "chemical/x-xyz");
  else if (kind === "csv") download(name, asCsv(molecules), "text/csv");
  else return saveSdf(molecules, name);
  return "";
}

function saveSdf(molecules, name) {
  const without = molecules.filter(({ sdf }) => !sdf).length;
  if (without < molecules.length) download(name, asSdf(molecules), "chemical/x-mdl-sdfile");
  if (!without) return "";
  announce(`${without} of ${molecules.length} molecules have no bonds and are left out of the SDF. XYZ has them all.`);
  return `${without} without bonds are not in the SDF; XYZ has them`;
}

// The files of molecules: XYZ, SDF, a table of comma-separated values, and all of them for a zip.
import { isParticles, nllOf } from "./molecule.js";
import { PROPERTIES } from "./properties.js";

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

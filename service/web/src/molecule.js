// A molecule of an answer: its descriptions, its files, and the orders and filters of molecules.
import { h, number } from "./dom.js";

/** The NLL in nats, or null; the answer has it as a number or inside an object. */
export const nllOf = (molecule) => (typeof molecule.nll === "object" ? (molecule.nll?.nll ?? null) : (molecule.nll ?? null));

export const nllText = (molecule) => {
  const nll = nllOf(molecule);
  if (nll === null) return null;
  const error = molecule.std_error;
  return `${number(nll)}${Number.isFinite(error) && error >= 0.05 ? ` ± ${number(error)}` : ""}`;
};

/** True for a sample of a particle system: positions with an energy, without elements or bonds. */
export const isParticles = ({ kind }) => kind === "particles";

/** A short name of the molecule as text. */
export const title = (molecule) => (isParticles(molecule) ? `${molecule.n_particles} particles` : molecule.formula);

/** The short name as an element. */
export const headline = (molecule) => (isParticles(molecule) ? h("span", { class: "formula" }, title(molecule)) : formula(molecule.formula));

const sizeOf = ({ n_atoms, n_particles }) => n_atoms ?? n_particles;

export const energyText = ({ energy }) => (Number.isFinite(energy) ? `${number(energy, 2)} kT` : null);

/** The NLL of the geometry for a given formula: without the terms of types and sizes. */
export const geometryNll = ({ parts }) => (parts ? parts.base + parts.divergence : null);

/** A formula with subscripts. */
export const formula = (text) =>
  h("span", { class: "formula" }, (text ?? "").split(/(\d+)/).map((part) => (/^\d+$/.test(part) ? h("sub", {}, part) : part)));

/** The percentile among held-out molecules of the same size, as text. */
export function standing(percentile) {
  if (!Number.isFinite(percentile)) return null;
  const rank = Math.round(percentile);
  const ending = rank % 100 > 10 && rank % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][rank % 10] ?? "th");
  return `${rank}${ending} percentile`;
}

/** Labels of a molecule, the best first: [word, class, reason]. */
export function verdict(molecule) {
  if (molecule.solver_status && molecule.solver_status.toLowerCase() !== "success") {
    return ["unfinished", "bad", `The solver stopped: ${molecule.solver_status}.`];
  }
  if (molecule.valid && molecule.stable) return ["stable", "good", "Valid and stable: RDKit reads the molecule, and every atom has its usual valence."];
  if (molecule.valid) return ["valid", "fair", unstable(molecule)];
  return ["not valid", "bad", molecule.bonds?.reason || "RDKit finds no bonds that fit these atoms."];
}

function unstable(molecule) {
  const missing = Math.round((1 - molecule.atom_stability) * molecule.n_atoms);
  const charged = /[+-]\d*\]/.test(molecule.smiles ?? "") ? "; RDKit needs charges to read it" : "";
  return `Not stable by a table of bond lengths, a convention: ${missing} of ${molecule.n_atoms} atoms miss their usual valence${charged}.`;
}

export const sentence = (molecule) => {
  const nll = nllText(molecule);
  const energy = energyText(molecule);
  const what = isParticles(molecule) ? energy && `energy ${energy}` : verdict(molecule)[0];
  return [title(molecule), what, nll && `NLL ${nll} nats`].filter(Boolean).join(", ");
};

export const ORDERS = {
  index: (a, b) => a.index - b.index,
  likely: (a, b) => (nllOf(a) ?? Infinity) - (nllOf(b) ?? Infinity) || a.index - b.index,
  unlikely: (a, b) => (nllOf(b) ?? -Infinity) - (nllOf(a) ?? -Infinity) || a.index - b.index,
  small: (a, b) => sizeOf(a) - sizeOf(b) || a.index - b.index,
  large: (a, b) => sizeOf(b) - sizeOf(a) || a.index - b.index,
  energy: (a, b) => (a.energy ?? Infinity) - (b.energy ?? Infinity) || a.index - b.index,
  valid: (a, b) => Number(b.valid) + Number(b.stable) - Number(a.valid) - Number(a.stable) || a.index - b.index,
};

export const FILTERS = {
  all: () => true,
  valid: (molecule) => molecule.valid,
  stable: (molecule) => molecule.stable,
  invalid: (molecule) => !molecule.valid,
};

/** Whether a molecule passes {show, from, to, below}: validity, its number of atoms, its NLL; null lets everything pass. */
export const passes = (molecule, { show, from, to, below }) =>
  FILTERS[show](molecule) &&
  sizeOf(molecule) >= (from ?? 0) &&
  sizeOf(molecule) <= (to ?? Infinity) &&
  (below === null || (nllOf(molecule) ?? Infinity) <= below);

const withEnd = (text) => (text.endsWith("\n") ? text : `${text}\n`);
// A record ends in $$$$; a bare molfile gets its own.
const record = (sdf) => (/\$\$\$\$\s*$/.test(sdf) ? withEnd(sdf) : `${withEnd(sdf)}$$$$$$$$\n`);

export const asXyz = (molecules) => molecules.map(({ xyz }) => withEnd(xyz)).join("");

export const asSdf = (molecules) => molecules.filter(({ sdf }) => sdf).map(({ sdf }) => record(sdf)).join("");

/** A file name that says where the molecule comes from. */
export const nameOf = (molecule) => `enflow-${molecule.seed ?? "x"}-${molecule.index}-${isParticles(molecule) ? molecule.model : molecule.formula}`;

/** The files of a zip: each molecule in both formats, and a table of all. */
export function asFiles(molecules) {
  const columns = molecules.some(isParticles)
    ? ["index", "seed", "n_particles", "energy", "nll", "std_error"]
    : ["index", "seed", "formula", "smiles", "n_atoms", "valid", "stable", "nll", "std_error"];
  const row = (molecule) => columns.map((name) => (name === "nll" ? nllOf(molecule) : molecule[name]) ?? "").join(",");
  const files = molecules.flatMap((molecule) => [
    [`${nameOf(molecule)}.xyz`, asXyz([molecule])],
    ...(molecule.sdf ? [[`${nameOf(molecule)}.sdf`, asSdf([molecule])]] : []),
  ]);
  return [...files, ["molecules.csv", [columns.join(","), ...molecules.map(row)].join("\n") + "\n"]];
}

// A molecule of an answer: its descriptions.
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

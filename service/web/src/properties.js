// The numbers of a molecule that tables, plots, filters and orders use.
import { number } from "./dom.js";
import { nllOf } from "./molecule.js";

/** key: the name in the answer; label; meaning; digits. */
export const PROPERTIES = [
  ["weight", "Weight", "molecular weight, g/mol", 1],
  ["heavy_atoms", "Heavy atoms", "number of atoms other than hydrogen", 0],
  ["logp", "logP", "octanol-water partition coefficient by Wildman and Crippen", 2],
  ["tpsa", "TPSA", "topological polar surface area, square angstrom", 1],
  ["qed", "QED", "quantitative estimate of drug-likeness, 0 to 1", 2],
  ["rings", "Rings", "number of rings", 0],
  ["rotatable_bonds", "Rotatable", "rotatable bonds, without those of amides and esters", 0],
  ["donors", "Donors", "donors of hydrogen bonds", 0],
  ["acceptors", "Acceptors", "acceptors of hydrogen bonds", 0],
  ["sa_score", "SA score", "synthetic accessibility by Ertl and Schuffenhauer, 1 = easy to 10 = hard", 1],
  ["strain", "Strain", "energy above the nearest minimum of MMFF94s, kcal/mol", 1],
].map(([key, label, meaning, digits]) => ({ key, label, meaning, digits }));

/** All numbers, the NLL and the size first. */
export const NUMBERS = [
  { key: "nll", label: "NLL", meaning: "negative log-likelihood, nats", digits: 1 },
  { key: "n_atoms", label: "Atoms", meaning: "number of atoms", digits: 0 },
  ...PROPERTIES,
];

/** The value of a number of a molecule; null where it has none. */
export function valueOf(molecule, key) {
  const value = key === "nll" ? nllOf(molecule) : key === "n_atoms" ? molecule.n_atoms : molecule.properties?.[key];
  return Number.isFinite(value) ? value : null;
}

export const textOf = (molecule, { key, digits }) => number(valueOf(molecule, key), digits);

/** The order by a number, molecules without one last; a minus sign before the key puts the largest first. */
export function byNumber(sort) {
  const [sign, key] = sort.startsWith("-") ? [-1, sort.slice(1)] : [1, sort];
  const rank = (molecule) => valueOf(molecule, key) ?? Infinity * sign;
  return (a, b) => sign * (rank(a) - rank(b) || 0) || a.index - b.index;
}

/** True if a number is within bounds; null is no bound, and a molecule without the number is outside of every bound. */
export function isWithin(molecule, key, low, high) {
  if (!key || (low === null && high === null)) return true;
  const value = valueOf(molecule, key);
  return value !== null && value >= (low ?? -Infinity) && value <= (high ?? Infinity);
}

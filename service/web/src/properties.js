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

const { compare } = new Intl.Collator("en", { numeric: true }); // C2 before C10

/** The order by valueOf(item, key), a number or a text; null is last, and a minus sign before the key puts the largest first. */
export function byValue(sort, valueOf) {
  const [sign, key] = sort.startsWith("-") ? [-1, sort.slice(1)] : [1, sort];
  const order = (x, y) => (typeof x === "string" ? compare(x, y) : x - y);
  return (a, b) => {
    const [x, y] = [valueOf(a, key), valueOf(b, key)];
    const difference = x === null || y === null ? Number(x === null) - Number(y === null) : sign * order(x, y);
    return difference || a.index - b.index;
  };
}

/** The order by a number of molecules. */
export const byNumber = (sort) => byValue(sort, valueOf);

/** True if a number is within bounds; null is no bound, and a molecule without the number is outside of every bound. */
export function isWithin(molecule, key, low, high) {
  if (!key || (low === null && high === null)) return true;
  const value = valueOf(molecule, key);
  return value !== null && value >= (low ?? -Infinity) && value <= (high ?? Infinity);
}

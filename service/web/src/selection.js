// Orders and filters of molecules.
import { nllOf } from "./molecule.js";
import { byNumber, isWithin } from "./properties.js";

const sizeOf = ({ n_atoms, n_particles }) => n_atoms ?? n_particles;

const ORDERS = {
  index: (a, b) => a.index - b.index,
  likely: (a, b) => (nllOf(a) ?? Infinity) - (nllOf(b) ?? Infinity) || a.index - b.index,
  unlikely: (a, b) => (nllOf(b) ?? -Infinity) - (nllOf(a) ?? -Infinity) || a.index - b.index,
  small: (a, b) => sizeOf(a) - sizeOf(b) || a.index - b.index,
  large: (a, b) => sizeOf(b) - sizeOf(a) || a.index - b.index,
  energy: (a, b) => (a.energy ?? Infinity) - (b.energy ?? Infinity) || a.index - b.index,
  valid: (a, b) => Number(b.valid) + Number(b.stable) - Number(a.valid) - Number(a.stable) || a.index - b.index,
};

const FILTERS = {
  all: () => true,
  valid: (molecule) => molecule.valid,
  stable: (molecule) => molecule.stable,
  invalid: (molecule) => !molecule.valid,
};

/** The comparison of an order: a name of ORDERS or of a number. */
export const orderOf = (sort) => ORDERS[sort] ?? byNumber(sort);

/** Whether a molecule passes {show, from, to, below, property, low, high}: validity, its number of atoms, its NLL, a number; null lets everything pass. */
export const passes = (molecule, { show, from, to, below, property, low, high }) =>
  FILTERS[show](molecule) &&
  sizeOf(molecule) >= (from ?? 0) &&
  sizeOf(molecule) <= (to ?? Infinity) &&
  (below === null || (nllOf(molecule) ?? Infinity) <= below) &&
  isWithin(molecule, property, low, high);

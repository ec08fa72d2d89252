// What people say about the size of a molecule: nothing (drawn as in QM9), a number, a list, or a formula.

const FORMULA = /^[A-Z]/;

/** The words of a request for what was typed. */
export function sizeOf(text) {
  const said = text.trim();
  if (FORMULA.test(said)) return { formula: said };
  const sizes = said.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (sizes.length > 1) return { n_atoms: sizes, n_molecules: sizes.length };
  return { n_atoms: sizes[0] ?? null };
}

/** What would have to be typed for a request; null for nothing. */
export const textOf = ({ formula, n_atoms }) => formula ?? n_atoms?.toString() ?? null;

// The size of a molecule in a form: empty (drawn as in QM9), a number, a list, or a formula.

const FORMULA = /^[A-Z]/;

/** The fields of a request for a typed size. */
export function sizeOf(text) {
  const said = text.trim();
  if (FORMULA.test(said)) return { formula: said };
  const sizes = said.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (sizes.length > 1) return { n_atoms: sizes, n_molecules: sizes.length };
  return { n_atoms: sizes[0] ?? null };
}

/** The typed size for a request; null for an empty field. */
export const textOf = ({ formula, n_atoms }) => formula ?? n_atoms?.toString() ?? null;

// The size of a molecule in a form: empty (drawn as in QM9), a number, a range, a list, or a formula.

const FORMULA = /^[A-Z]/;
const RANGE = /^([0-9]+) *[-–:] *([0-9]+)$/;

/** The fields of a request for a typed size. */
export function sizeOf(text) {
  const said = text.trim();
  if (FORMULA.test(said)) return { formula: said };
  const range = RANGE.exec(said);
  if (range) return { n_atoms: { min: Number(range[1]), max: Number(range[2]) } };
  const sizes = said.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (sizes.length > 1) return { n_atoms: sizes, n_molecules: sizes.length };
  return { n_atoms: sizes[0] ?? null };
}

/** The typed size for a request; null for an empty field. */
export const textOf = ({ formula, n_atoms }) => formula ?? (n_atoms?.min ? `${n_atoms.min}-${n_atoms.max}` : n_atoms?.toString()) ?? null;

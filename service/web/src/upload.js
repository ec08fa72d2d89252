// Uploaded files: dropped, chosen or pasted, and their format.

// A line of SMILES and, after a space, a name. An atom line of an XYZ file has numbers instead of a name.
const SMILES = /^[A-Za-z0-9@+\-[\]()=#$:./\\%*]+(?:[ \t]+(?![+-]?[\d.]+(?:\s|$)).*)?$/;
const NUMBER = /^\s*\d+\s*$/;

/** "sdf", "smiles3d" or "xyz": by the file name, otherwise by a line that every SDF has, and by the first line. */
export function formatOf(text, name = "") {
  if (/\.(sdf|mol|sd)$/i.test(name)) return "sdf";
  if (/\.(xyz|extxyz|exyz)$/i.test(name)) return "xyz";
  if (/\.(smi|smiles)$/i.test(name)) return "smiles3d";
  if (/V[23]000|^M {2}END|^\$\$\$\$/m.test(text)) return "sdf";
  const [first] = text.trimStart().split(/\r?\n/);
  return !NUMBER.test(first) && SMILES.test(first.trim()) ? "smiles3d" : "xyz";
}

export const readAll = (files) =>
  Promise.all([...files].map(async (file) => ({ name: file.name, data: await file.text() }))).then((found) =>
    found.map(({ name, data }) => ({ name, data, format: formatOf(data, name) })),
  );

/** Calls `take(list of {name, data, format})` with files dropped on `zone` or chosen in `input`. */
export function acceptFiles(zone, input, take) {
  const over = (value) => (event) => (event.preventDefault(), zone.classList.toggle("over", value));
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", async (event) => {
    over(false)(event);
    if (event.dataTransfer.files.length) take(await readAll(event.dataTransfer.files));
  });
  input.addEventListener("change", async () => {
    const files = await readAll(input.files);
    input.value = "";
    if (files.length) take(files);
  });
}

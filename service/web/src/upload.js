// Uploaded files: dropped, chosen or pasted, and their format.

/** "sdf" or "xyz", by the file name, otherwise by a line that every SDF has. */
export function formatOf(text, name = "") {
  if (/\.(sdf|mol|sd)$/i.test(name)) return "sdf";
  if (/\.(xyz|extxyz)$/i.test(name)) return "xyz";
  return /V[23]000|^M {2}END|^\$\$\$\$/m.test(text) ? "sdf" : "xyz";
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

// Files that people bring: dropped, chosen or pasted, and what format they are in.

/** "sdf" or "xyz", by the name's ending or else by what an SDF cannot be without. */
export function formatOf(text, name = "") {
  if (/\.(sdf|mol|sd)$/i.test(name)) return "sdf";
  if (/\.(xyz|extxyz)$/i.test(name)) return "xyz";
  return /V[23]000|^M {2}END|^\$\$\$\$/m.test(text) ? "sdf" : "xyz";
}

export const readAll = (files) =>
  Promise.all([...files].map(async (file) => ({ name: file.name, data: await file.text() }))).then((found) =>
    found.map(({ name, data }) => ({ name, data, format: formatOf(data, name) })),
  );

/** Makes `zone` take dropped files, and `input` chosen ones; both end in `take(list of {name, data, format})`. */
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

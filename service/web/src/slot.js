// An input for one structure: pasted, dropped, an example, or a generated molecule.
import { h } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { View } from "./view.js";
import { acceptFiles, formatOf } from "./upload.js";
import { fromSdf, fromXyz } from "./structure.js";

export class Slot {
  constructor(name, { name: title, xyz }) {
    this.name = name;
    this.view = new View({ label: "" });
    this.title = h("span", { class: "quiet" });
    this.text = h("textarea", { rows: 4, spellcheck: "false", "aria-label": `Structure ${name} as XYZ, SDF or SMILES` });
    this.text.addEventListener("change", () => this.set({ name: "pasted", data: this.text.value }));
    this.element = h("section", { class: "slot", "aria-label": `Structure ${name}` }, h("h3", {}, name, " ", this.title), this.view.element, this.sources());
    this.set({ name: title, data: xyz });
  }

  sources() {
    const options = EXAMPLES.map(({ name }, i) => h("option", { value: i }, name));
    const pick = h("select", { "aria-label": `Example for ${this.name}` }, h("option", { value: "" }, "examples"), options);
    pick.addEventListener("change", () => {
      const example = EXAMPLES[pick.value];
      if (example) this.set({ name: example.name, data: example.xyz });
    });
    const input = h("input", { type: "file", accept: ".xyz,.extxyz,.sdf,.mol,.smi,.smiles", "aria-label": `File for ${this.name}` });
    const details = h("details", {}, h("summary", {}, "Paste or open a file"), this.text, input);
    const zone = h("div", { class: "sources" }, pick, details);
    acceptFiles(zone, input, ([file]) => this.set(file));
    return zone;
  }

  set({ name, data, format = formatOf(data) }) {
    this.structure = { format, data };
    this.title.textContent = format === "smiles3d" ? `${name}, drawn with the answer` : name;
    this.text.value = data;
    this.view.label = `Structure ${this.name}: ${name}`;
    this.draw(format, data);
  }

  /** Draws the upload; only the service checks it. */
  draw(format, data) {
    try {
      this.view.show(format === "sdf" ? fromSdf(data) : fromXyz(data));
    } catch {
      this.view.show({ atoms: [], bonds: [] });
    }
  }
}

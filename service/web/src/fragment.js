// A fragment in a form: a structure, the atoms of it that are kept, and the atoms at which it grows.
import { svg } from "./dom.js";
import { elementOf } from "./elements.js";
import { STYLES } from "./painters.js";
import { atomAt, indicesOf, nameOf, numbersOf } from "./picking.js";
import { marked } from "./structure.js";
import { View } from "./view.js";

const EMPTY = { atoms: [], bonds: [] };
const FADED = 0.15; // of an atom's colour, where it is not kept

export class Fragment {
  /** form: has the text inputs `keep` and `attach` for numbers of atoms, and a select `clicks` with their names. */
  constructor(form) {
    this.fields = form.elements;
    this.whole = EMPTY;
    this.view = new View({ label: "The fragment", pick: (x, y) => this.pick(x, y), zoomable: true });
    this.drawing = svg("svg", { class: "overlay", "aria-hidden": "true" });
    this.view.element.append(this.drawing);
    this.view.overlay = (project) => this.label(project);
    for (const name of ["keep", "attach"]) this.fields[name].addEventListener("input", () => this.draw());
  }

  get element() {
    return this.view.element;
  }

  /** Shows another structure, of which all atoms are kept. */
  show(structure, name) {
    this.whole = structure;
    this.name = name.replace(/[^\w .-]/g, ""); // it becomes a line of a file, within a command line
    this.fields.keep.value = this.fields.attach.value = "";
    this.view.show(structure);
    this.view.turn(0.5, 0.4); // in its flattest pose a ring hides its hydrogen atoms behind each other
    this.draw();
  }

  /** Lets it grow at one atom. */
  attach(index) {
    this.fields.attach.value = numbersOf([index]);
    this.draw();
  }

  /** The indices of the atoms that are kept, in the order of the structure. */
  get kept() {
    const named = indicesOf(this.fields.keep.value, this.whole.atoms);
    return named.length ? named.sort((a, b) => a - b) : this.whole.atoms.map((_, index) => index);
  }

  /** The indices of the atoms at which the fragment grows; none = where it has open bonds. */
  get attached() {
    const kept = new Set(this.kept);
    return indicesOf(this.fields.attach.value, this.whole.atoms).filter((index) => kept.has(index));
  }

  /** The fields of a request. */
  get request() {
    const { kept, attached } = this;
    const lines = kept.map((index) => [elementOf(this.whole.atoms[index].z).symbol, ...this.whole.atoms[index].position].join(" "));
    const attach = attached.length ? attached.map((index) => kept.indexOf(index) + 1) : null;
    return { fragment: { format: "xyz", data: [kept.length, this.name, ...lines, ""].join("\n") }, attach };
  }

  pick(x, y) {
    const index = atomAt(this.view, x, y);
    if (index === undefined) return;
    const field = this.fields[this.fields.clicks.value];
    const chosen = indicesOf(field.value, this.whole.atoms);
    field.value = numbersOf(chosen.includes(index) ? chosen.filter((each) => each !== index) : [...chosen, index]);
    this.draw();
  }

  draw() {
    const kept = new Set(this.kept);
    const atoms = this.whole.atoms.map((atom, i) => (kept.has(i) ? atom : { ...atom, certainty: FADED }));
    this.view.move(marked({ ...this.whole, atoms }, (i) => kept.has(i)));
    const places = this.attached.map((index) => nameOf(atoms, index)).join(", ");
    this.view.label = `${this.name}: ${kept.size} of ${atoms.length} atoms are kept; it grows at ${places || "open bonds"}. Arrow keys turn it.`;
  }

  /** Names all atoms, and rings those at which the fragment grows. */
  label(project) {
    const { atoms } = this.whole;
    const rings = this.attached.map((index) => {
      const { x, y, scale } = project(atoms[index].position);
      return svg("circle", { cx: x, cy: y, r: (STYLES[this.view.style].ball(atoms[index].z) + 0.08) * scale, class: "measured" });
    });
    const names = atoms.map(({ position }, index) => {
      const { x, y } = project(position);
      return svg("text", { x, y, class: "atom-label" }, nameOf(atoms, index));
    });
    this.drawing.replaceChildren(...rings, ...names);
  }
}

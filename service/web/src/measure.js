// Labels of the atoms of a view, and the distance or angle of atoms that are clicked or named by their numbers.
import { h, number, svg } from "./dom.js";
import { angle, dihedral, distance } from "./geometry.js";
import { STYLES } from "./painters.js";
import { atomAt, indicesOf, nameOf, numbersOf } from "./picking.js";

const MOST = 4;

export class Measure {
  /** view: a View whose structure is measured. */
  constructor(view) {
    this.view = view;
    this.chosen = [];
    this.drawing = svg("svg", { class: "overlay", "aria-hidden": "true" });
    view.element.append(this.drawing);
    view.overlay = (project) => this.draw(project);
    view.pick = (x, y) => this.pick(x, y);
    this.element = this.bar();
  }

  bar() {
    const styles = Object.entries(STYLES).map(([value, { name }]) => h("option", { value }, name));
    const style = h("select", { onchange: () => ((this.view.style = style.value), this.view.refresh()) }, styles);
    this.labels = h("input", { type: "checkbox", onchange: () => this.view.refresh() });
    this.field = h("input", { class: "bound atoms", placeholder: "1 2", autocomplete: "off", title: "numbers of two, three or four atoms", oninput: () => this.type() });
    this.reading = h("output", { class: "reading" });
    return h(
      "div",
      { class: "bar tools" },
      h("label", { class: "inline" }, "Style ", style),
      h("label", { class: "inline" }, this.labels, " Labels"),
      h("label", { class: "inline" }, "Measure atoms ", this.field),
      this.reading,
      h("span", { class: "quiet" }, "Click two atoms for a distance, three for an angle, four for a dihedral angle."),
    );
  }

  get atoms() {
    return this.view.structure?.atoms ?? [];
  }

  nameOf(index) {
    return nameOf(this.atoms, index);
  }

  type() {
    this.choose(indicesOf(this.field.value, this.atoms).slice(0, MOST));
  }

  /** Adds the atom under a click, or removes it; a click beside all atoms, or a fifth atom, begins again. */
  pick(x, y) {
    const near = atomAt(this.view, x, y);
    if (near === undefined) this.choose([]);
    else if (this.chosen.includes(near)) this.choose(this.chosen.filter((index) => index !== near));
    else this.choose(this.chosen.length < MOST ? [...this.chosen, near] : [near]);
    this.field.value = numbersOf(this.chosen);
  }

  choose(indices) {
    this.chosen = indices;
    this.reading.textContent = this.read();
    this.view.refresh();
  }

  read() {
    const positions = this.chosen.map((index) => this.atoms[index].position);
    const names = this.chosen.map((index) => this.nameOf(index)).join("–");
    if (positions.length < 2) return names;
    if (positions.length === 2) return `${names} ${number(distance(...positions), 3)} Å`;
    return `${names} ${number(positions.length === 3 ? angle(...positions) : dihedral(...positions), 1)}°`;
  }

  draw(project) {
    const spots = this.atoms.map(({ position }) => project(position));
    const line = this.chosen.map((index) => spots[index]);
    const path = line.length > 1 && svg("polyline", { points: line.map(({ x, y }) => `${x},${y}`).join(" "), class: "measured" });
    const rings = this.chosen.map((index) => {
      const { x, y, scale } = spots[index];
      return svg("circle", { cx: x, cy: y, r: (STYLES[this.view.style].ball(this.atoms[index].z) + 0.08) * scale, class: "measured" });
    });
    const named = this.labels.checked ? spots.map((_, index) => index) : this.chosen;
    const texts = named.map((index) => svg("text", { x: spots[index].x, y: spots[index].y, class: "atom-label" }, this.nameOf(index)));
    this.drawing.replaceChildren(...[path, ...rings, ...texts].filter(Boolean));
  }
}

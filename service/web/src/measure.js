// Labels of the atoms of a view, and the distance or angle of atoms that are clicked or named by their numbers.
import { h, number, svg } from "./dom.js";
import { angle, dihedral, distance } from "./geometry.js";
import { elementOf } from "./elements.js";
import { STYLES } from "./painters.js";

const REACH = 14; // pixels around an atom in which a click finds it
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
    return `${elementOf(this.atoms[index].z).symbol}${index + 1}`;
  }

  type() {
    const numbers = this.field.value.split(/[\s,;]+/).filter(Boolean).map((text) => Number(text) - 1);
    this.choose([...new Set(numbers)].filter((index) => this.atoms[index]).slice(0, MOST));
  }

  /** Adds the atom under a click, or removes it; a click beside all atoms, or a fifth atom, begins again. */
  pick(x, y) {
    const project = this.view.painter?.project(this.view);
    if (!project) return;
    const ball = (atom) => STYLES[this.view.style].ball(atom.z);
    const near = this.atoms
      .map((atom, index) => ({ index, atom, ...project(atom.position) }))
      .filter((spot) => Math.hypot(spot.x - x, spot.y - y) < Math.max(REACH, ball(spot.atom) * spot.scale))
      .sort((a, b) => b.z - a.z)[0];
    if (!near) this.choose([]);
    else if (this.chosen.includes(near.index)) this.choose(this.chosen.filter((index) => index !== near.index));
    else this.choose(this.chosen.length < MOST ? [...this.chosen, near.index] : [near.index]);
    this.field.value = this.chosen.map((index) => index + 1).join(" ");
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

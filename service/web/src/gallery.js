// A grid of cards with its own sorting, filtering, selection and downloads.
import { announce, button, download, h } from "./dom.js";
import { Card } from "./card.js";
import { FILTERS, ORDERS, asFiles, asSdf, asXyz, nameOf } from "./molecule.js";
import { zip } from "./zip.js";

const SORTS = [
  ["index", "as generated"],
  ["likely", "most likely first"],
  ["unlikely", "least likely first"],
  ["valid", "valid first"],
  ["small", "small first"],
  ["large", "large first"],
];
const SHOWS = [
  ["all", "all"],
  ["valid", "valid"],
  ["stable", "stable"],
  ["invalid", "not valid"],
];

const choice = (label, options, onchange) => {
  const select = h("select", { onchange: () => onchange(select.value) }, options.map(([value, text]) => h("option", { value }, text)));
  return { label: h("label", { class: "inline" }, label, " ", select), select };
};

export class Gallery {
  /** actions: {open, watch} for cards; `changed` is told when sorting or filter changes. */
  constructor(actions, changed = () => {}) {
    this.actions = { ...actions, choose: () => this.count(), save: (molecule, kind) => this.save([molecule], kind) };
    this.cards = new Map();
    this.sort = "index";
    this.filter = "all";
    this.changed = changed;
    this.list = h("ul", { class: "grid", "aria-label": "Results" });
    this.element = h("div", { class: "gallery", hidden: true }, this.bar(), this.list);
  }

  bar() {
    this.sorts = choice("Sort", SORTS, (value) => this.arrange(value, this.filter));
    this.filters = choice("Show", SHOWS, (value) => this.arrange(this.sort, value));
    this.all = button("Select all", () => this.chooseAll(), { class: "small" });
    this.counter = h("span", { class: "quiet grow" });
    const saves = ["sdf", "xyz", "zip"].map((kind) => button(kind.toUpperCase(), () => this.saveChosen(kind), { class: "small", "aria-label": `Download as ${kind.toUpperCase()}` }));
    return h("div", { class: "bar" }, this.sorts.label, this.filters.label, this.all, this.counter, h("span", { class: "quiet" }, "Download"), saves);
  }

  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.element.hidden = true;
  }

  /** The card of this index, made when first asked for. */
  card(index) {
    if (!this.cards.has(index)) {
      const card = new Card(index, this.actions);
      this.cards.set(index, card);
      this.list.append(card.element);
      this.element.hidden = false;
    }
    return this.cards.get(index);
  }

  add(molecule) {
    this.card(molecule.index).fill(molecule);
    this.arrange(this.sort, this.filter);
  }

  /** Removes cards that will not be filled. */
  prune() {
    for (const [index, card] of this.cards) {
      if (card.molecule || card.element.classList.contains("failed")) continue;
      card.element.remove();
      this.cards.delete(index);
    }
    this.count();
  }

  get molecules() {
    return [...this.cards.values()].map((card) => card.molecule).filter(Boolean);
  }

  arrange(sort, filter) {
    const told = sort !== this.sort || filter !== this.filter;
    Object.assign(this, { sort, filter });
    this.sorts.select.value = sort;
    this.filters.select.value = filter;
    const cards = [...this.cards.values()];
    const done = cards.filter((card) => card.molecule).sort((a, b) => ORDERS[sort](a.molecule, b.molecule));
    for (const card of done) card.element.hidden = !FILTERS[filter](card.molecule);
    const order = sort === "index" ? cards.sort((a, b) => a.index - b.index) : [...done, ...cards.filter((card) => !card.molecule)];
    this.place(order.map((card) => card.element));
    this.count();
    if (told) this.changed();
  }

  /** Puts elements in order, moving only those out of place, so that focus and pictures stay. */
  place(elements) {
    elements.forEach((element, i) => {
      if (this.list.children[i] !== element) this.list.insertBefore(element, this.list.children[i] ?? null);
    });
  }

  get chosen() {
    return [...this.cards.values()].filter((card) => card.molecule && card.chosen).map((card) => card.molecule);
  }

  chooseAll() {
    const shown = [...this.cards.values()].filter((card) => card.molecule && !card.element.hidden);
    const value = !shown.every((card) => card.chosen);
    shown.forEach((card) => (card.chosen = value));
    this.count();
  }

  count() {
    const [total, chosen] = [this.molecules.length, this.chosen.length];
    const shown = this.molecules.filter(FILTERS[this.filter]).length;
    const parts = [shown === total ? `${total}` : `${shown} of ${total}`, chosen ? `${chosen} selected` : null];
    this.counter.textContent = parts.filter(Boolean).join(" · ");
  }

  /** What is selected, or else all that is shown. */
  saveChosen(kind) {
    this.save(this.chosen.length ? this.chosen : this.molecules.filter(FILTERS[this.filter]).sort(ORDERS[this.sort]), kind);
  }

  save(molecules, kind) {
    const single = molecules.length === 1 && kind !== "zip";
    const name = `${single ? nameOf(molecules[0]) : `enflow-${molecules[0]?.seed ?? "molecules"}`}.${kind}`;
    if (kind === "zip") download(name, zip(asFiles(molecules)));
    else if (kind === "xyz") download(name, asXyz(molecules), "chemical/x-xyz");
    else this.saveSdf(name, molecules);
  }

  saveSdf(name, molecules) {
    const without = molecules.filter(({ sdf }) => !sdf).length;
    if (without < molecules.length) download(name, asSdf(molecules), "chemical/x-mdl-sdfile");
    if (without) announce(`${without} of ${molecules.length} molecules have no bonds and are left out of the SDF. XYZ has them all.`);
    this.counter.textContent = without ? `${without} without bonds are not in the SDF; XYZ has them` : this.counter.textContent;
  }
}

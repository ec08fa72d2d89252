// A grid of cards with its own sorting, filtering, selection and downloads.
import { arrange, button, fold, h } from "./dom.js";
import { Card } from "./card.js";
import { nameOf, saveButtons, saveFile } from "./files.js";
import { NUMBERS, PROPERTIES } from "./properties.js";
import { columnOf, scatter } from "./scatter.js";
import { orderOf, passes } from "./selection.js";
import { table } from "./table.js";

const SORTS = [
  ["index", "as generated"],
  ["likely", "most likely first"],
  ["unlikely", "least likely first"],
  ["valid", "valid first"],
  ["small", "small first"],
  ["large", "large first"],
  ["energy", "low energy first"],
];
const BY_PROPERTY = PROPERTIES.flatMap(({ key, label }) => [[`-${key}`, `${label}, high first`], [key, `${label}, low first`]]);
const MOLECULAR = ["valid", "small", "large", ...BY_PROPERTY.map(([value]) => value)]; // orders without a meaning for particles; energy has none for molecules

const SHOWS = [
  ["all", "all"],
  ["valid", "valid"],
  ["stable", "stable"],
  ["invalid", "not valid"],
];

const MEANINGS = [
  ["stable", "good", "every atom has its usual valence, by RDKit and by the table of bond lengths that papers use"],
  ["valid", "fair", "by RDKit, but not by that table"],
  ["not valid", "bad", "RDKit finds no bonds that fit the atoms"],
  ["NLL", "", "in nats ± its error: lower is more likely under the model; the bar shows its rank among QM9 molecules of the same size, where most generated molecules are high"],
];

const LOOKS = [
  ["cards", "cards"],
  ["table", "table"],
  ["plot", "plot"],
];

const EVERYTHING = { show: "all", from: null, to: null, below: null, property: "", low: null, high: null };

const choice = (label, options, onchange) => {
  const select = h("select", { onchange: () => onchange(select.value) }, options.map(([value, text]) => h("option", { value }, text)));
  return { label: h("label", { class: "inline" }, label, " ", select), select };
};

export class Gallery {
  /** actions: {open, watch} for cards; `changed` is called when sorting or filter changes; sort: the usual order; meanings: of further labels. */
  constructor(actions, { changed = () => {}, sort = "index", meanings = [] } = {}) {
    this.actions = { ...actions, choose: () => this.count(), save: (molecule, kind) => this.save([molecule], kind) };
    this.cards = new Map();
    this.usual = this.sort = sort;
    this.filter = EVERYTHING;
    this.changed = changed;
    this.look = "cards";
    this.axes = ["logp", "qed"];
    this.list = h("ul", { class: "grid", "aria-label": "Results" });
    this.panel = h("div", { class: "panel", hidden: true });
    this.element = h("div", { class: "gallery", hidden: true }, this.meanings(meanings), this.bar(), this.list, this.panel);
    this.sorts.select.value = sort;
  }

  bar() {
    this.looks = choice("View", LOOKS, (look) => this.show(look));
    this.sorts = choice("Sort", [...SORTS, ...BY_PROPERTY], (value) => this.arrange(value, this.filter));
    this.shows = choice("Show", SHOWS, (show) => this.arrange(this.sort, { ...this.filter, show }));
    this.bounds = { from: this.bound("from", "Atoms at least"), to: this.bound("to", "Atoms at most"), below: this.bound("below", "NLL at most", "any"), low: this.bound("low", "Property at least"), high: this.bound("high", "Property at most") };
    this.property = choice("Property", [["", "any"], ...PROPERTIES.map(({ key, label }) => [key, label])], (property) => this.arrange(this.sort, { ...this.filter, property }));
    for (const { label } of [this.looks, this.shows]) label.classList.add("molecular");
    const ranges = [
      h("span", { class: "inline molecular" }, "Atoms", this.bounds.from, "to", this.bounds.to),
      h("span", { class: "inline" }, "NLL ≤", this.bounds.below),
      h("span", { class: "inline molecular" }, this.property.label, this.bounds.low, "to", this.bounds.high),
    ];
    this.all = button("Select all", () => this.chooseAll(), { class: "small" });
    this.counter = h("span", { class: "quiet grow" });
    const saves = saveButtons(["sdf", "xyz", "csv", "zip"], (kind) => this.saveChosen(kind));
    const bar = h("div", { class: "bar" }, this.looks.label, this.sorts.label, this.shows.label, ranges, this.all, this.counter, h("span", { class: "row" }, h("span", { class: "quiet" }, "Download"), saves));
    return fold("Sort, filter, download", bar);
  }

  /** The legend of the cards. */
  meanings(more) {
    const entry = (word, meaning) => h("div", {}, h("dt", {}, word), h("dd", {}, meaning));
    const list = h("dl", { class: "meanings" }, [...MEANINGS, ...more].map(([word, kind, meaning]) => entry(kind ? h("span", { class: `chip ${kind}` }, word) : h("b", {}, word), meaning)));
    const legend = fold("What do the labels mean?", list);
    legend.classList.add("molecular");
    return legend;
  }

  /** An input for a bound of the filter; empty = no bound. */
  bound(name, label, placeholder = "–") {
    const input = h("input", { type: "number", step: "any", class: "bound", "aria-label": label, placeholder });
    input.addEventListener("input", () => this.arrange(this.sort, { ...this.filter, [name]: input.value === "" ? null : Number(input.value) }));
    return input;
  }

  /** Sorting and filter as parameters of an address, without default values. */
  get state() {
    const given = Object.entries({ ...this.filter, sort: this.sort }).filter(([name, value]) => value !== { ...EVERYTHING, sort: this.usual }[name]);
    return Object.fromEntries(given);
  }

  /** Sets sorting and filter from the parameters of an address. */
  restore(parameters) {
    const bound = (name) => (Number.isFinite(parseFloat(parameters.get(name))) ? parseFloat(parameters.get(name)) : null);
    const known = (options, name, usual) => options.find(([value]) => value === parameters.get(name))?.[0] ?? usual;
    const bounds = Object.fromEntries(Object.keys(this.bounds).map((name) => [name, bound(name)]));
    const property = PROPERTIES.find(({ key }) => key === parameters.get("property"))?.key ?? "";
    this.arrange(known([...SORTS, ...BY_PROPERTY], "sort", this.usual), { ...bounds, property, show: known(SHOWS, "show", EVERYTHING.show) });
  }

  /** The kind of the cards: molecules or particles. */
  set kind(kind) {
    this.element.dataset.kind = kind;
    for (const option of this.sorts.select.options) option.hidden = option.disabled = (kind === "particles" ? MOLECULAR : ["energy"]).includes(option.value);
    if (this.sorts.select.selectedOptions[0]?.disabled) this.arrange("index", this.filter);
    if (kind !== "particles") return;
    this.show("cards");
    this.arrange(this.sort, { ...EVERYTHING, below: this.filter.below });
  }

  get particles() {
    return this.element.dataset.kind === "particles";
  }

  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.element.hidden = true;
  }

  /** Returns the card of this index and creates it if necessary. */
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

  /** Adds the likelihood of a molecule that has a card. */
  score(index, score) {
    this.card(index).score(score);
    this.arrange(this.sort, this.filter);
  }

  /** Adds another model's likelihood of a molecule that has a card. */
  compare(index, score) {
    this.card(index).compare(score);
  }

  /** Removes cards without a molecule. */
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
    this.shows.select.value = filter.show;
    this.property.select.value = filter.property;
    for (const [name, input] of Object.entries(this.bounds)) if (input !== document.activeElement) input.value = filter[name] ?? "";
    const cards = [...this.cards.values()];
    const done = cards.filter((card) => card.molecule).sort((a, b) => orderOf(sort)(a.molecule, b.molecule));
    for (const card of done) card.element.hidden = !passes(card.molecule, filter);
    const order = sort === "index" ? cards.sort((a, b) => a.index - b.index) : [...done, ...cards.filter((card) => !card.molecule)];
    arrange(this.list, order.map((card) => card.element));
    this.count();
    this.draw();
    if (told) this.changed();
  }

  /** Shows the molecules as "cards", "table" or "plot". */
  show(look) {
    this.look = this.looks.select.value = look;
    this.list.hidden = look !== "cards";
    this.panel.hidden = look === "cards";
    this.draw();
  }

  draw() {
    if (this.look === "cards") return;
    const actions = { order: (sort) => this.arrange(sort, this.filter), open: this.actions.open };
    if (this.look === "table") this.panel.replaceChildren(table(this.shown, this.sort, actions));
    else this.plot();
  }

  plot() {
    const axis = (i, label) => {
      const { label: element, select } = choice(label, NUMBERS.map(({ key, label }) => [key, label]), (key) => ((this.axes[i] = key), this.plot()));
      select.value = this.axes[i];
      return element;
    };
    const drawing = scatter(this.shown, this.axes.map(columnOf), this.actions.open);
    const place = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Plot of the molecules" }, drawing);
    this.panel.replaceChildren(h("p", { class: "row" }, axis(0, "Across"), axis(1, "Up")), place);
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
    const shown = this.shown.length;
    const parts = [shown === total ? `${total}` : `${shown} of ${total}`, chosen ? `${chosen} selected` : null];
    this.counter.textContent = parts.filter(Boolean).join(" · ");
  }

  get shown() {
    return this.molecules.filter((molecule) => passes(molecule, this.filter)).sort(orderOf(this.sort));
  }

  /** The selected molecules, or all visible ones if none is selected. */
  saveChosen(kind) {
    this.save(this.chosen.length ? this.chosen : this.shown, kind);
  }

  save(molecules, kind) {
    const single = molecules.length === 1 && kind !== "zip";
    const name = single ? nameOf(molecules[0]) : `enflow-${molecules[0]?.seed ?? "molecules"}`;
    this.counter.textContent = saveFile(molecules, kind, `${name}.${kind}`) || this.counter.textContent;
  }
}

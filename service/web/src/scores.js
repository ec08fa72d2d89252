// Scores as a table: one row for each structure, ordered by a column; the row that is selected is shown in large.
import { arrange, button, h, number } from "./dom.js";
import { energyText, headline, nllOf, nllText, title } from "./molecule.js";
import { byValue } from "./properties.js";
import { sortHead } from "./table.js";

const WHO = { key: "name", label: "Structure", meaning: "name in the file, or place", rising: true, of: ({ name, place }) => name || place };
const NLL = { key: "nll", label: "NLL", meaning: "negative log-likelihood, nats ± its standard error: lower is more likely", of: ({ result }) => nllOf(result), show: nllText };
const FILE = { key: "place", label: "File", meaning: "file, and number of the structure in it", rising: true, of: ({ index }) => index };
const formulaOf = ({ result }) => title(result);
const MOLECULES = [
  WHO,
  NLL,
  { key: "percentile", label: "Percentile", meaning: "share in % of held-out QM9 molecules of this size with a lower NLL", of: ({ result }) => result.percentile, show: ({ percentile }) => number(percentile, 0) },
  { key: "formula", label: "Formula", meaning: "elements with counts", rising: true, of: formulaOf, show: headline },
  { key: "n_atoms", label: "Atoms", meaning: "number of atoms", of: ({ result }) => result.n_atoms, show: ({ n_atoms }) => n_atoms },
  FILE,
];
const PARTICLES = [
  WHO,
  NLL,
  { key: "energy", label: "Energy", meaning: "of the known potential, in units of the temperature", of: ({ result }) => result.energy, show: (result) => energyText(result) ?? "–" },
  { key: "formula", label: "Particles", meaning: "number of particles", of: ({ result }) => result.n_particles, show: title },
  FILE,
];
const STEPS = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };

export class Scores {
  /** show(record): called with the record whose row is selected. */
  constructor(show) {
    this.show = show;
    this.head = h("tr");
    this.body = h("tbody", { onkeydown: (event) => this.key(event) });
    const table = h("table", { class: "molecules ranking" }, h("thead", {}, this.head), this.body);
    this.element = h("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Table of the scores; in it the arrow keys select a structure" }, table);
    this.clear("molecules");
  }

  /** Begins an empty table of molecules or particles. */
  clear(kind) {
    Object.assign(this, { columns: kind === "particles" ? PARTICLES : MOLECULES, records: [], selected: null, decided: false });
    this.sorting = sortHead(this.columns, (sort) => this.order(sort));
    this.head.replaceChildren(...this.sorting.cells);
    this.body.replaceChildren();
    this.order("place");
  }

  /** record: {index: place among all, place: the same in words, name, result, upload}. */
  add(record) {
    record.pick = button(record.name || record.place, null, { class: "small", title: record.name || null, tabindex: -1 }); // its click reaches the row
    record.row = h("tr", { onclick: () => this.choose(record) }, h("th", { scope: "row" }, record.pick), this.facts(record), h("td", { class: "place" }, record.place));
    this.records.push(record);
    this.arrange();
  }

  facts({ result }) {
    const inner = this.columns.slice(1, -1);
    if (!result.error) return inner.map(({ show, rising }) => h("td", { class: rising ? null : "number" }, show(result)));
    const reason = result.error.detail ?? result.error.message;
    return h("td", { colspan: inner.length, class: "failure" }, h("span", { class: "chip bad" }, "no score"), " ", reason);
  }

  order(sort) {
    this.sort = sort;
    this.sorting.mark(sort);
    this.arrange();
  }

  /** All records in the order of the table: those without a score have no values, so they are last. */
  get shown() {
    const valueOf = (record, key) => (record.result.error ? null : (this.columns.find((column) => column.key === key).of(record) ?? null));
    return [...this.records].sort(byValue(this.sort, valueOf));
  }

  get scored() {
    return this.records.filter(({ result }) => !result.error);
  }

  /** Places the rows; the first is selected until the user selects one. */
  arrange() {
    const { shown } = this;
    arrange(this.body, shown.map(({ row }) => row));
    if (!this.decided && shown.length) this.select(shown[0]);
  }

  choose(record) {
    this.decided = true;
    this.select(record);
  }

  select(record) {
    if (record === this.selected) return;
    for (const each of [this.selected, record].filter(Boolean)) {
      const current = each === record;
      each.row.classList.toggle("current", current);
      each.pick.tabIndex = current ? 0 : -1;
      if (current) each.pick.setAttribute("aria-current", "true");
      else each.pick.removeAttribute("aria-current");
    }
    this.selected = record;
    this.show(record);
  }

  /** Moves the selection and the focus by a row, or to an end of the table. */
  key(event) {
    if (!(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { shown } = this;
    const at = shown.indexOf(this.selected) + STEPS[event.key];
    this.choose(shown[Math.min(shown.length - 1, Math.max(0, at))]);
    this.selected.pick.focus();
  }
}

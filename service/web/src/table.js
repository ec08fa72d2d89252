// Molecules as a table: one row each, ordered by a click on a column.
import { button, h } from "./dom.js";
import { formula, verdict } from "./molecule.js";
import { NUMBERS, textOf } from "./properties.js";

// Numbers whose orders have names of their own.
const NAMES = { nll: "likely", "-nll": "unlikely", n_atoms: "small", "-n_atoms": "large" };
const named = (sort) => NAMES[sort] ?? sort;
const unnamed = (sort) => Object.keys(NAMES).find((key) => NAMES[key] === sort) ?? sort;

const yes = (value) => (value === true ? "yes" : value === false ? "no" : "–");

/** Cells of columns {key, label, meaning, rising}, whose buttons call order(sort); mark(sort) shows the order in force. rising: the first click puts the smallest first. */
export function sortHead(columns, order) {
  let sort = "";
  const direction = (key) => (sort === key ? "ascending" : sort === `-${key}` ? "descending" : null);
  const turn = ({ key, rising }) => order((direction(key) ?? (rising ? "descending" : "ascending")) === "ascending" ? `-${key}` : key);
  const cells = columns.map((column) => h("th", { scope: "col", class: column.rising ? null : "number", title: column.meaning }, button(column.label, () => turn(column), { class: "small head" })));
  const mark = (current) => {
    sort = current;
    columns.forEach(({ key }, i) => (direction(key) ? cells[i].setAttribute("aria-sort", direction(key)) : cells[i].removeAttribute("aria-sort")));
  };
  return { cells, mark };
}

/** sort: the order in force; order(sort) asks for another one; open(molecule) shows one in large. */
export function table(molecules, sort, { order, open }) {
  const head = sortHead(NUMBERS, (asked) => order(named(asked)));
  head.mark(unnamed(sort));
  const row = (molecule) => {
    const [word, kind] = verdict(molecule);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, button(`${molecule.index + 1}`, () => open(molecule), { class: "small", "aria-label": `Enlarge molecule ${molecule.index + 1}` })),
      h("td", {}, formula(molecule.formula)),
      h("td", {}, h("span", { class: `chip ${kind}` }, word)),
      NUMBERS.map((column) => h("td", { class: "number" }, textOf(molecule, column))),
      h("td", { title: "no molecule of QM9 has the same connectivity" }, yes(molecule.properties?.novel)),
      h("td", { class: "smiles" }, molecule.smiles ?? ""),
    );
  };
  const words = (names) => names.map((name) => h("th", { scope: "col" }, name));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the molecules" },
    h("table", { class: "molecules" }, h("thead", {}, h("tr", {}, words(["Molecule", "Formula", "Label"]), head.cells, words(["New", "SMILES"]))), h("tbody", {}, molecules.map(row))),
  );
}

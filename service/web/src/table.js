// Molecules as a table: one row each, ordered by a click on a column.
import { button, h } from "./dom.js";
import { formula, verdict } from "./molecule.js";
import { NUMBERS, textOf } from "./properties.js";

// Numbers whose orders have names of their own.
const NAMES = { nll: "likely", "-nll": "unlikely", n_atoms: "small", "-n_atoms": "large" };
const named = (sort) => NAMES[sort] ?? sort;

const yes = (value) => (value === true ? "yes" : value === false ? "no" : "–");

/** sort: the order in force; order(sort) asks for another one; open(molecule) shows one in large. */
export function table(molecules, sort, { order, open }) {
  const direction = (key) => (sort === named(key) ? "ascending" : sort === named(`-${key}`) ? "descending" : null);
  const turn = (key) => order(named(direction(key) === "descending" ? key : `-${key}`));
  const head = NUMBERS.map(({ key, label, meaning }) =>
    h("th", { scope: "col", "aria-sort": direction(key), title: meaning }, button(label, () => turn(key), { class: "small head" })),
  );
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
    h("table", { class: "molecules" }, h("thead", {}, h("tr", {}, words(["Molecule", "Formula", "Label"]), head, words(["New", "SMILES"]))), h("tbody", {}, molecules.map(row))),
  );
}

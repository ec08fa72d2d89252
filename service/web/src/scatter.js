// A scatter plot of two numbers of molecules.
import { h, number, svg } from "./dom.js";
import { title, verdict } from "./molecule.js";
import { NUMBERS, textOf, valueOf } from "./properties.js";

const [WIDTH, HEIGHT] = [640, 360];
const EDGE = { left: 64, right: 16, top: 12, bottom: 46 };

/** At most about five round numbers within a range. */
export function ticks(low, high) {
  const rough = (high - low || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

/** A linear scale over the values, with a margin of a twentieth. */
function scaleOf(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || 1) / 20;
  const at = (value) => from + ((to - from) * (value - low + margin)) / (high - low + 2 * margin);
  return { at, ticks: ticks(low - margin, high + margin) };
}

const digits = (marks) => (marks.length > 1 && marks[1] - marks[0] < 1 ? Math.min(3, Math.ceil(-Math.log10(marks[1] - marks[0]))) : 0);

/** axes: the two columns {key, label, meaning, digits}; a click on a point opens its molecule. */
export function scatter(molecules, [x, y], open) {
  const shown = molecules.filter((molecule) => valueOf(molecule, x.key) !== null && valueOf(molecule, y.key) !== null);
  if (!shown.length) return h("p", { class: "quiet" }, `No molecule has both ${x.label} and ${y.label}.`);
  const across = scaleOf(shown.map((molecule) => valueOf(molecule, x.key)), EDGE.left, WIDTH - EDGE.right);
  const up = scaleOf(shown.map((molecule) => valueOf(molecule, y.key)), HEIGHT - EDGE.bottom, EDGE.top);
  const floor = HEIGHT - EDGE.bottom;
  const columns = across.ticks.flatMap((value) => [
    svg("line", { x1: across.at(value), x2: across.at(value), y1: EDGE.top, y2: floor, class: "grid-line" }),
    svg("text", { x: across.at(value), y: floor + 18, "text-anchor": "middle" }, number(value, digits(across.ticks))),
  ]);
  const rows = up.ticks.flatMap((value) => [
    svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: up.at(value), y2: up.at(value), class: "grid-line" }),
    svg("text", { x: EDGE.left - 8, y: up.at(value) + 4, "text-anchor": "end" }, number(value, digits(up.ticks))),
  ]);
  const names = [
    svg("text", { x: (EDGE.left + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `${x.label}: ${x.meaning}`),
    svg("text", { x: 14, y: floor / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${floor / 2})` }, y.label),
  ];
  const points = shown.map((molecule) => {
    const spot = { cx: across.at(valueOf(molecule, x.key)), cy: up.at(valueOf(molecule, y.key)), r: 5, class: `point ${verdict(molecule)[1]}` };
    const words = `${molecule.index + 1}: ${title(molecule)}, ${x.label} ${textOf(molecule, x)}, ${y.label} ${textOf(molecule, y)}`;
    return svg("circle", { ...spot, onclick: () => open(molecule) }, svg("title", {}, words));
  });
  const label = `${y.label} over ${x.label} of ${shown.length} molecules; the table has the numbers`;
  return svg("svg", { class: "scatter", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, columns, rows, names, points);
}

export const columnOf = (key) => NUMBERS.find((column) => column.key === key);

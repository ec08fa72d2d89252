// Small charts as SVG. Each has its numbers as text beside it or in its label; the colours are in the style sheet.
import { h, number, svg } from "./dom.js";
import { standing } from "./molecule.js";

/** The meaning of each part of the likelihood, in the order of drawing. */
export const PARTS = [
  ["base", "base", "How far the latent lies from the centre of the noise"],
  ["divergence", "divergence", "How much the flow squeezed or stretched space on the way"],
  ["dequantizer", "types", "The price of making discrete atom types continuous"],
  ["n_atoms", "size", "How rare this number of atoms is"],
];

/** The parts of an NLL as bars from a common zero, negative parts to the left, and their sum with its error bar. */
export function partsChart(parts, { nll, std_error } = {}) {
  const rows = PARTS.filter(([name]) => Number.isFinite(parts?.[name])).map(([name, ...words]) => ({ value: parts[name], words }));
  if (Number.isFinite(nll)) rows.push({ value: nll, words: ["NLL", "The sum of the parts, with its standard error"], error: std_error ?? 0, kind: "sum" });
  const largest = Math.max(1, ...rows.map(({ value, error = 0 }) => Math.abs(value) + error));
  return h("dl", { class: "parts" }, rows.flatMap((row) => partRow(row, 48 / largest)));
}

function partRow({ value, words: [label, meaning], error, kind }, scale) {
  const width = Math.abs(value) * scale;
  const x = value < 0 ? 50 - width : 50;
  const bar = svg("rect", { x, y: 2, width, height: 6, rx: 1, class: kind ?? (value < 0 ? "negative" : "positive") });
  const zero = svg("line", { x1: 50, x2: 50, y1: 0, y2: 10, class: "axis" });
  const tip = 50 + value * scale;
  const whisker = error ? svg("path", { d: `M${tip - error * scale} 2V8M${tip - error * scale} 5H${tip + error * scale}M${tip + error * scale} 2V8`, class: "whisker" }) : "";
  const drawing = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, bar, zero, whisker);
  const text = error ? `${number(value)} ± ${number(error)}` : number(value);
  return [h("dt", { title: meaning, class: kind }, label), h("dd", { class: kind }, drawing, h("span", {}, text))];
}

/** A percentile of the NLL among the molecules of QM9. */
export function percentileChart(percentile) {
  if (!Number.isFinite(percentile)) return null;
  const text = `${standing(percentile)} of the NLL among held-out QM9 molecules of this size`;
  const mark = svg("circle", { cx: 2 + percentile * 0.96, cy: 6, r: 3, class: "mark" });
  const ticks = [0, 25, 50, 75, 100].map((at) => svg("line", { x1: 2 + at * 0.96, x2: 2 + at * 0.96, y1: 4, y2: 8, class: "axis" }));
  const rail = svg("line", { x1: 2, x2: 98, y1: 6, y2: 6, class: "axis" });
  return h(
    "figure",
    { class: "percentile" },
    svg("svg", { viewBox: "0 0 100 12", role: "img", "aria-label": text }, rail, ...ticks, mark),
    h("figcaption", { title: text }, `above ${number(percentile, 0)} % of QM9 of this size`),
  );
}

/** A line over t from 0 to 1, with a marker that `at(t)` moves. points: [[t, value]]. */
export function lineChart(points, label) {
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (t) => 4 + 192 * t;
  const y = (value) => 44 - (40 * (value - low)) / (high - low || 1);
  const path = points.map(([t, value], i) => `${i ? "L" : "M"}${x(t).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  const marker = svg("line", { x1: x(1), x2: x(1), y1: 2, y2: 46, class: "marker" });
  const drawing = svg(
    "svg",
    { viewBox: "0 0 200 48", preserveAspectRatio: "none", role: "img", "aria-label": `${label}, from ${number(values[0])} to ${number(values.at(-1))}` },
    svg("path", { d: path, class: "curve" }),
    marker,
  );
  const element = h("figure", { class: "line" }, h("figcaption", {}, h("span", {}, label), h("span", {}, `${number(low, 0)} to ${number(high, 0)}`)), drawing);
  const at = (t) => ["x1", "x2"].forEach((end) => marker.setAttribute(end, x(t)));
  return { element, at };
}

/** The value of [[t, value]] at t, straight between points. */
export function valueAt(points, t) {
  const after = points.findIndex(([time]) => time >= t);
  if (after <= 0) return points[after < 0 ? points.length - 1 : 0]?.[1];
  const [[t0, v0], [t1, v1]] = [points[after - 1], points[after]];
  return v0 + ((v1 - v0) * (t - t0)) / (t1 - t0 || 1);
}

/** Horizontal bar of a share from 0 to 1, for tables. */
export const shareBar = (share) =>
  svg(
    "svg",
    { class: "share", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: 100, height: 6, class: "rail" }),
    svg("rect", { width: 100 * share, height: 6, class: "fill" }),
  );

/** The last values as a filled line; values are not negative. */
export function sparkline(values, label) {
  const top = Math.max(1, ...values);
  const line = values.length > 1 ? values : [values[0], values[0]];
  const points = line.map((value, i) => `${(200 * i) / (line.length - 1)} ${46 - (42 * value) / top}`);
  const drawing = svg(
    "svg",
    { viewBox: "0 0 200 48", preserveAspectRatio: "none", role: "img", "aria-label": `${label}: now ${values.at(-1)}, at most ${Math.max(...values)}` },
    svg("path", { d: `M0 48L${points.join("L")}L200 48Z`, class: "area" }),
    svg("path", { d: `M${points.join("L")}`, class: "curve" }),
  );
  return h("figure", { class: "line" }, h("figcaption", {}, h("span", {}, label), h("span", {}, `at most ${Math.max(...values)}`)), drawing);
}

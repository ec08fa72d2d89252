// Model: the card of the loaded weights, its results beside the published ones, and how the service is doing.
import { key } from "./api.js";
import { byId, h, number, percent } from "./dom.js";
import { shareBar } from "./chart.js";
import { health, limits, models } from "./service.js";
import { showProblem } from "./problem.js";

// 10,000 samples, stability by the table of bond lengths of EDM; from the papers named. Validity conventions differ a little between them.
const PUBLISHED = [
  { name: "QM9 itself", atom: 0.99, molecule: 0.952, valid: 0.977 },
  { name: "E-NF (2021)", nll: -59.7, atom: 0.85, molecule: 0.049, valid: 0.402, nfe: "≈ 110" },
  { name: "G-SchNet (2019)", atom: 0.957, molecule: 0.681, valid: 0.855 },
  { name: "EDM (2022)", nll: -110.7, atom: 0.987, molecule: 0.82, valid: 0.919, nfe: "1000" },
  { name: "GeoLDM (2023)", atom: 0.989, molecule: 0.894, valid: 0.938, nfe: "1000" },
  { name: "EquiFM (2023)", atom: 0.989, molecule: 0.883, valid: 0.947, nfe: "200" },
  { name: "GCDM (2024)", nll: -172.3, atom: 0.987, molecule: 0.864, valid: 0.949, nfe: "1000" },
  { name: "GeoBFN (2024)", atom: 0.993, molecule: 0.933, valid: 0.969, nfe: "2000" },
];

const HEALTH = {
  device: "device",
  "queue running": "molecules running",
  "queue waiting": "molecules waiting",
  "step age s": "seconds since the last step",
  reason: "state",
};

const POLL_MS = 3000;

const cell = (share) => h("td", {}, h("span", {}, percent(share)), Number.isFinite(share) ? shareBar(share) : null);

const line = ({ name, nll, atom, molecule, valid, nfe }, mine = false) =>
  h(
    "tr",
    { class: mine && "mine" },
    h("th", { scope: "row" }, name),
    h("td", {}, number(nll)),
    [atom, molecule, valid].map(cell),
    h("td", {}, nfe ?? "–"),
  );

const ours = ({ name, metrics }) => ({
  name: `This model (${name})`,
  nll: metrics.test_nll,
  atom: metrics.atom_stability,
  molecule: metrics.molecule_stability,
  valid: metrics.validity,
  nfe: Number.isFinite(metrics.nfe_mean) ? number(metrics.nfe_mean, 0) : null,
});

const COLUMNS = ["", "NLL, nats", "Stable atoms", "Stable molecules", "Valid", "Evaluations"];

const results = (cards) =>
  h(
    "table",
    {},
    h("caption", {}, "Generated molecules of QM9 size, beside published results"),
    h("thead", {}, h("tr", {}, COLUMNS.map((text) => (text ? h("th", { scope: "col" }, text) : h("td"))))),
    h("tbody", {}, cards.filter(({ metrics }) => metrics).map((card) => line(ours(card), true)), PUBLISHED.map((row) => line(row))),
  );

const METRICS = {
  samples: "samples judged",
  single_fragment: "in one piece",
  uniqueness: "unique",
  novelty: "novel",
  test_nll_without_f: "test NLL without fluorine",
  tolerance: "solver tolerance",
};
const SHARES = ["single_fragment", "uniqueness", "novelty"];

const metric = (name, value) => (SHARES.includes(name) ? percent(value) : String(value).replace("-", "−"));

function about(card) {
  const metrics = card.metrics ?? {};
  const entries = [
    ["Weights", card.name],
    ["SHA-256", card.weights_sha256 && h("code", {}, card.weights_sha256)],
    ["Trained on", card.dataset && `${card.dataset.name}${card.dataset.split ? `, split ${card.dataset.split}` : ""}`],
    ["Created", card.created],
    ["Licence", card.licence],
    ...Object.entries(METRICS).map(([name, label]) => [label, metrics[name] === undefined || metrics[name] === null ? null : metric(name, metrics[name])]),
  ];
  return h("dl", { class: "facts" }, rows(entries.filter(([, value]) => value)));
}

const flat = (value, prefix = "") =>
  Object.entries(value).flatMap(([name, inner]) =>
    inner !== null && typeof inner === "object" ? flat(inner, `${prefix}${name} `) : [[`${prefix}${name}`.replaceAll("_", " "), inner]],
  );

const shown = (value) => (typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 2) : String(value));

const rows = (entries) => entries.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);

export class Model {
  constructor() {
    const field = byId("api-key");
    field.value = key.get();
    field.addEventListener("change", () => key.set(field.value));
    setInterval(() => this.poll(), POLL_MS);
    this.poll();
  }

  /** Called when the section is shown. */
  async enter() {
    this.poll();
    if (this.shown) return;
    try {
      const [cards, numbers] = await Promise.all([models(), limits()]);
      byId("model-card").replaceChildren(...cards.map(about));
      byId("model-results").replaceChildren(results(cards));
      byId("model-limits").replaceChildren(...rows(flat(numbers).map(([name, value]) => [name, String(value)])));
      this.shown = true;
    } catch (problem) {
      showProblem(byId("model-card"), problem);
    }
  }

  async poll() {
    if (document.hidden) return;
    const state = await health();
    const word = state.ready ? "ready" : "not ready";
    const light = byId("status");
    light.dataset.ready = state.ready;
    byId("status-word").textContent = word;
    light.title = state.reason ?? "";
    const entries = flat(state).filter(([name, value]) => HEALTH[name] && value !== null && value !== "");
    byId("model-health").replaceChildren(...rows(entries.map(([name, value]) => [HEALTH[name], shown(value)])));
  }
}

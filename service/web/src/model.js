// Model: the cards of the loaded weights, their results beside published ones, and the health of the service.
import { key } from "./api.js";
import { byId, h, number, percent } from "./dom.js";
import { shareBar, sparkline } from "./chart.js";
import { history, onPulse } from "./pulse.js";
import { limits, models } from "./service.js";
import { showProblem } from "./problem.js";

// 10,000 samples, stability by the table of bond lengths of EDM; from the papers named. Validity conventions differ a little between them.
const PUBLISHED = [
  { name: "QM9 itself", atom: 0.99, molecule: 0.952, valid: 0.977 },
  { name: "E-NF (2021)", nll: -59.7, atom: 0.85, molecule: 0.049, valid: 0.402, nfe: "≈ 110" },
  { name: "G-SchNet (2019)", atom: 0.957, molecule: 0.681, valid: 0.855 },
  { name: "EDM (2022)", nll: -110.7, error: 1.5, atom: 0.987, molecule: 0.82, valid: 0.919, nfe: "1000" },
  { name: "GeoLDM (2023)", atom: 0.989, molecule: 0.894, valid: 0.938, nfe: "1000" },
  { name: "EquiFM (2023)", atom: 0.989, molecule: 0.883, valid: 0.947, nfe: "200" },
  { name: "GCDM (2024)", nll: -172.3, atom: 0.987, molecule: 0.864, valid: 0.949, nfe: "1000" },
  { name: "GeoBFN (2024)", atom: 0.993, molecule: 0.933, valid: 0.969, nfe: "2000" },
  { name: "VEDA-E (2026)", atom: 0.994, molecule: 0.937, valid: 0.981, nfe: "50" },
];

const HEALTH = [
  ["device", ({ device }) => device],
  ["molecules running", ({ queue }) => queue?.running],
  ["molecules waiting", ({ queue }) => queue?.waiting],
  ["last step", ({ step_age_s }) => Number.isFinite(step_age_s) && `${number(step_age_s, 1)} s ago`],
  ["state", ({ reason }) => reason],
  ["engines", ({ models = {} }) => Object.keys(models).length > 1 && Object.entries(models).map(([name, state]) => h("div", {}, `${name}: ${state}`))],
];

const cell = (share) => h("td", {}, h("span", {}, percent(share)), Number.isFinite(share) ? shareBar(share) : null);

const line = ({ name, nll, error, atom, molecule, valid, nfe }, mine = false) =>
  h(
    "tr",
    { class: mine && "mine" },
    h("th", { scope: "row" }, name),
    h("td", {}, number(nll), error ? ` ± ${number(error)}` : ""),
    [atom, molecule, valid].map(cell),
    h("td", {}, nfe ?? "–"),
  );

const ours = ({ name, metrics }) => ({
  name: `This model (${name})`,
  nll: metrics.test_nll,
  error: metrics.test_nll_se,
  atom: metrics.atom_stability,
  molecule: metrics.molecule_stability,
  valid: metrics.validity,
  nfe: Number.isFinite(metrics.nfe_mean) ? number(metrics.nfe_mean, 0) : null,
});

const COLUMNS = ["", "NLL, nats", "Stable atoms", "Stable molecules", "Valid (EDM)", "Evaluations"];

const results = (cards) =>
  h(
    "table",
    {},
    h("caption", {}, h("span", {}, "Generated molecules of QM9 size, beside published results")),
    h("thead", {}, h("tr", {}, COLUMNS.map((text) => (text ? h("th", { scope: "col" }, text) : h("td"))))),
    h("tbody", {}, cards.filter(({ metrics, kind }) => metrics && kind === "molecules").map((card) => line(ours(card), true)), PUBLISHED.map((row) => line(row))),
  );

const METRICS = [
  ["in one piece", ({ single_fragment }) => percent(single_fragment)],
  ["unique", ({ uniqueness }) => percent(uniqueness)],
  ["novel", ({ novelty }) => percent(novelty)],
  ["test NLL without fluorine", (metrics) => number(metrics.test_nll_without_f) + (metrics.test_nll_without_f_se ? ` ± ${number(metrics.test_nll_without_f_se)} nats` : " nats")],
  ["judged on", ({ samples, test_molecules }) => `${samples ?? "–"} samples, ${test_molecules ?? "–"} test molecules`],
  ["solver tolerance", ({ tolerance }) => tolerance],
];

// Particle systems have a known entropy: no model can have a smaller NLL.
const PARTICLE_METRICS = [
  ["test NLL", ({ test_nll, test_nll_se }) => Number.isFinite(test_nll) && `${number(test_nll, 2)} ± ${number(test_nll_se, 2)} nats`],
  ["entropy, the floor", ({ entropy_floor, entropy_floor_se }) => Number.isFinite(entropy_floor) && `${number(entropy_floor, 2)} ± ${number(entropy_floor_se, 2)} nats`],
  ["effective sample size", ({ ess }) => Number.isFinite(ess) && percent(ess)],
  ["trained on", ({ train_samples }) => train_samples && `${train_samples} samples`],
];

/** The subject of a model in one line. */
const what = ({ kind, n_particles, n_dims, elements, max_atoms, takes_formulas }) =>
  kind === "particles"
    ? `${n_particles} particles in ${n_dims} dimensions`
    : elements && `molecules of ${elements.join(", ")}, up to ${max_atoms} atoms${takes_formulas ? ", given their formula" : ""}${kind === "fragment" ? ", around a fragment" : ""}`;

const day = (text) => new Date(text).toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });

/** A summary of the network in one line. */
const part = ({ kind, n_layers, node_dim, edge_dim }) =>
  [kind, n_layers && `${n_layers} layers`, node_dim && `${node_dim} numbers an atom`, edge_dim && `${edge_dim} a pair`].filter(Boolean).join(", ");

function about(card) {
  const { metrics, dataset, config = {} } = card;
  const parts = Object.entries(config).filter(([, value]) => value?.kind);
  const results = [
    ["Generates", what(card)],
    ...(metrics?.samples ? METRICS : card.kind === "particles" ? PARTICLE_METRICS : []).map(([label, of]) => [label, of(metrics)]),
  ];
  const origin = [
    ["Trained on", dataset && `${dataset.name}${dataset.split ? `, ${dataset.split}` : ""}`],
    ["Created", card.created && day(card.created)],
    ["Licence", card.licence],
    ...parts.map(([name, value]) => [name[0].toUpperCase() + name.slice(1), part(value)]),
    ["SHA-256", card.weights_sha256 && h("code", {}, card.weights_sha256)],
  ];
  const whole = h("pre", { class: "excerpt", tabindex: 0 }, JSON.stringify(card, null, 2));
  const more = h("details", {}, h("summary", {}, "Origin, network and the whole card"), h("dl", { class: "facts" }, rows(origin)), whole);
  return [h("h3", {}, card.name), h("dl", { class: "facts" }, rows(results)), more];
}

const rows = (entries) =>
  entries.filter(([, value]) => value || value === 0).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);

export class Model {
  constructor() {
    const field = byId("api-key");
    field.value = key.get();
    field.addEventListener("change", () => key.set(field.value));
    onPulse((state) => this.tell(state));
    if (history.length) this.tell(history.at(-1));
  }

  /** Called when the section is shown. */
  async enter() {
    if (this.shown) return;
    try {
      const [cards, numbers] = await Promise.all([models(), limits()]);
      byId("model-card").replaceChildren(...cards.flatMap(about));
      byId("model-results").replaceChildren(results(cards));
      byId("model-limits").replaceChildren(...rows(Object.entries(numbers).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? Object.entries(value).map((pair) => pair.join(": ")).join(", ") : value])));
      this.shown = true;
    } catch (problem) {
      showProblem(byId("model-card"), problem);
    }
  }

  tell(state) {
    byId("model-health").replaceChildren(...rows(HEALTH.map(([name, of]) => [name, of(state)])));
    const load = history.map(({ queue }) => (queue ? queue.running + queue.waiting : 0));
    byId("model-load").replaceChildren(sparkline(load, "molecules running and waiting, last three minutes"));
  }
}

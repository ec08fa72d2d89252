// Score: how likely the model finds structures that people bring.
import { announce, button, byId, h, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { EXAMPLES } from "./examples.js";
import { View } from "./view.js";
import { acceptFiles, formatOf } from "./upload.js";
import { formula, nllText } from "./molecule.js";
import { structureOf } from "./structure.js";
import { mix, theme } from "./elements.js";
import { partsChart, percentileChart } from "./chart.js";
import { showProblem } from "./problem.js";

const FAR = 10; // nats: an atom in its place comes within 4 of the others, a hydrogen 0.4 angstrom off measured 24
const HEAT = { light: ["#2a9d8f", "#e9c46a", "#d1495b"], dark: ["#3fc1b0", "#f0d27a", "#ff6b7a"] };

export class Score {
  constructor() {
    this.form = byId("score-form");
    this.files = [];
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    acceptFiles(byId("score-drop"), byId("score-file"), (files) => this.take(files));
    byId("score-cancel").addEventListener("click", () => this.abort?.abort());
    const examples = EXAMPLES.map(({ name, xyz }) => button(name, () => this.put(xyz), { class: "small" }));
    byId("score-examples").append(...examples);
  }

  /** Puts one text into the box and scores it. */
  put(text) {
    this.files = [];
    this.form.elements.text.value = text;
    this.run();
  }

  take(files) {
    this.files = files;
    byId("score-files").textContent = files.map(({ name }) => name).join(", ");
    this.form.elements.text.value = "";
    this.run();
  }

  get uploads() {
    const text = this.form.elements.text.value;
    return text.trim() ? [{ name: "pasted text", data: text, format: formatOf(text) }] : this.files;
  }

  async run() {
    const { uploads } = this;
    if (!uploads.length) return announce("Drop a file or paste a structure first");
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const { divergence, draws, seed } = this.form.elements;
    const structures = uploads.map(({ format, data }) => ({ format, data }));
    const body = { structures, divergence: divergence.value, draws: Number(draws.value), seed: Number(seed.value || 0) };
    this.busy(true);
    byId("score-results").replaceChildren();
    try {
      for await (const event of events("/likelihood", body, abort.signal)) this.hear(event, uploads);
    } catch (error) {
      if (error instanceof Problem) showProblem(byId("score-problem"), error, uploads.length === 1 ? uploads[0].data : null);
      else if (error.name !== "AbortError") throw error;
    }
    if (this.abort === abort) this.busy(false);
    return undefined;
  }

  busy(value) {
    byId("score-cancel").hidden = !value;
    byId("score-note").textContent = value ? "Integrating the flow backwards…" : "";
    if (!value) return;
    byId("score-problem").replaceChildren();
    announce("Scoring");
  }

  hear(event, uploads) {
    const list = byId("score-results");
    if (event.event === "start") this.total = event.n_molecules;
    else if (event.event === "score") this.enter(list, event.score, this.uploadOf(event.score.index, uploads));
    else if (event.event === "done") this.sumUp(list);
    if (event.event !== "done") byId("score-note").textContent = `${list.children.length} of ${this.total} structures`;
  }

  /** The upload a structure comes from; unknown where several files hold several structures. */
  uploadOf(index, uploads) {
    if (uploads.length === 1) return uploads[0];
    return uploads.length === this.total ? uploads[index] : null;
  }

  /** Puts a result in its place: they arrive as they are finished. */
  enter(list, result, upload) {
    const row = this.row(result, upload);
    row.dataset.index = result.index;
    list.insertBefore(row, [...list.children].find((other) => Number(other.dataset.index) > result.index) ?? null);
  }

  sumUp(list) {
    const bad = list.querySelectorAll(".bad").length;
    announce(`${list.children.length - bad} structures scored${bad ? `, ${bad} could not be read` : ""}`);
  }

  row(result, upload) {
    const name = upload?.name ?? `structure ${result.index + 1}`;
    if (result.error) {
      const place = h("div");
      showProblem(place, { ...result.error, title: `${name}:` }, upload?.data);
      return h("li", { class: "score bad" }, place);
    }
    const view = new View({ label: `${result.formula}. Arrow keys turn it.`, zoomable: true });
    view.show(heated(structureOf(result), result.atom_base));
    return h("li", { class: "score" }, view.element, h("div", { class: "score-body" }, words(result, name)));
  }
}

/** Colours atoms by how far out in the noise they come from: nats above the middle atom of the molecule. */
function heated(structure, costs) {
  if (!costs?.length) return structure;
  const middle = [...costs].sort((a, b) => a - b)[costs.length >> 1];
  const [cold, warm, hot] = HEAT[theme()];
  const heat = (share) => (share < 0.5 ? mix(cold, warm, 2 * share) : mix(warm, hot, 2 * share - 1));
  const share = (cost) => Math.min(1, Math.max(0, (cost - middle) / FAR));
  const atoms = structure.atoms.map((atom, i) => ({ ...atom, colour: heat(share(costs[i])) }));
  return { ...structure, atoms };
}

function words(result, name) {
  return [
    h("p", { class: "headline" }, formula(result.formula), h("span", { class: "quiet" }, name)),
    h("p", { class: "nll" }, h("b", {}, nllText(result)), " nats", h("span", { class: "quiet" }, ` · ${number(result.nll_per_atom, 2)} per atom`)),
    percentileChart(result.percentile),
    partsChart(result.parts),
    result.atom_base?.length && h("p", { class: "quiet" }, "Atoms from green to red: the further out in the noise one comes from, the less likely is its place."),
    h("p", { class: "quiet" }, `${result.nfe} evaluations · ${result.divergence} divergence · ${result.draws} ${result.draws === 1 ? "draw" : "draws"}`),
  ];
}

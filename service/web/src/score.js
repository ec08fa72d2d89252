// Score: the likelihood of uploaded structures.
import { announce, button, byId, h, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { Chooser } from "./chooser.js";
import { EXAMPLES } from "./examples.js";
import { Job } from "./job.js";
import { ESTIMATE, EXACT } from "./likelihood.js";
import { View } from "./view.js";
import { acceptFiles, formatOf } from "./upload.js";
import { energyText, headline, isParticles, nllText, title } from "./molecule.js";
import { structureOf } from "./structure.js";
import { mix, theme } from "./elements.js";
import { partsChart, percentileChart } from "./chart.js";
import { showProblem } from "./problem.js";

const AT_ONCE = 4; // parallel requests: enough to fill a batch, few enough to leave connections of the browser free
const NEAR = 4; // nats: an atom in its place is within so many of the others
const FAR = 10; // a hydrogen displaced by 0.4 angstrom had 24
const HEAT = { light: ["#e9c46a", "#d1495b"], dark: ["#f0d27a", "#ff6b7a"] };

export class Score {
  constructor() {
    this.form = byId("score-form");
    this.job = new Job("score");
    this.list = byId("score-results");
    this.files = [];
    this.chooser = new Chooser(this.form);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    acceptFiles(byId("score-drop"), byId("score-file"), (files) => this.take(files));
    const examples = EXAMPLES.map(({ name, xyz }) => button(name, () => this.put(xyz), { class: "small" }));
    byId("score-examples").append(...examples);
  }

  /** Copies a text into the form and scores it with a model. */
  async put(text, model = null) {
    await this.chooser.ready;
    this.chooser.choose(model);
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

  get options() {
    const { divergence, target_error, seed } = this.form.elements;
    const how = divergence.value === "exact" ? EXACT : ESTIMATE;
    const { name } = this.chooser;
    return { ...how, ...(name && { model: name }), target_error: Number(target_error.value || 2), seed: Number(seed.value || 0) };
  }

  async run() {
    const { uploads } = this;
    if (!uploads.length) return this.job.say("Drop a file or paste a structure first");
    this.list.replaceChildren();
    Object.assign(this, { total: 0, moving: new Map() });
    announce("Scoring");
    const outcome = await this.job.run((signal) => this.work(uploads, this.options, signal));
    if (outcome === "done") this.sumUp("");
    if (outcome === "cancelled") this.sumUp("Cancelled: ");
    return undefined;
  }

  /** Sends one request per file, so that each result has its file and a refused file does not affect the others. */
  async work(uploads, options, signal) {
    const waiting = uploads.map((upload, order) => ({ ...upload, order }));
    const next = async () => {
      for (let upload = waiting.shift(); upload; upload = waiting.shift()) await this.file(upload, options, signal);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }

  async file(upload, options, signal) {
    const body = { structures: [{ format: upload.format, data: upload.data }], ...options };
    try {
      for await (const event of events("/likelihood", body, signal)) this.hear(event, upload);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.settle({ index: 0, error }, upload);
    }
  }

  hear(event, upload) {
    if (event.event === "start") this.total += upload.count = event.n_molecules;
    else if (event.event === "score") this.settle(event.score, upload);
    for (const { index, share } of event.running ?? []) this.moving.set(`${upload.order} ${index}`, share);
    const under = [...this.moving.values()].reduce((sum, share) => sum + share, 0);
    if (event.event !== "done") this.job.progress({ done: this.list.children.length, under, total: this.total, noun: "structures" }, event);
  }

  /** Inserts a result at its place; results are received when they are finished. */
  settle(result, upload) {
    this.moving.delete(`${upload.order} ${result.index}`);
    const row = this.row(result, upload);
    const place = upload.order * 1e6 + result.index;
    row.dataset.place = place;
    this.list.insertBefore(row, [...this.list.children].find((other) => Number(other.dataset.place) > place) ?? null);
  }

  sumUp(before) {
    const bad = this.list.querySelectorAll(".bad").length;
    const scored = this.list.children.length - bad;
    this.job.say(`${before}${scored} ${scored === 1 ? "structure" : "structures"} scored${bad ? `, ${bad} could not be` : ""}`);
  }

  row(result, upload) {
    const place = upload.count > 1 ? `${upload.name}, structure ${result.index + 1}` : upload.name;
    if (result.error) {
      const problem = h("div");
      const { detail = result.error.message, errors } = result.error;
      const heading = result.name ? `${result.name} (${place}):` : `${place}:`;
      showProblem(problem, { detail, errors, title: heading }, upload.data);
      return h("li", { class: "score bad" }, problem);
    }
    const view = new View({ label: `${[result.name, title(result)].filter(Boolean).join(", ")}. Arrow keys turn it.`, zoomable: true });
    view.show(haloed(structureOf(result), result.atom_base));
    return h("li", { class: "score" }, view.element, h("div", { class: "score-body" }, words(result, place)));
  }
}

/** Gives a halo to atoms whose NLL under the base is far above that of the median atom of the molecule. */
function haloed(structure, costs) {
  if (!costs?.length) return structure;
  const middle = [...costs].sort((a, b) => a - b)[costs.length >> 1];
  const share = (cost) => Math.min(1, (cost - middle - NEAR) / (FAR - NEAR));
  const halo = (cost) => share(cost) > 0 && { colour: mix(...HEAT[theme()], share(cost)), share: share(cost) };
  return { ...structure, atoms: structure.atoms.map((atom, i) => ({ ...atom, halo: halo(costs[i]) })) };
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function words(result, place) {
  const how = result.divergence === "exact" ? "exact divergence" : `divergence by ${plural(result.probes, "probe")}`;
  return [
    h("p", { class: "headline" }, h("span", { class: "named", title: result.name || null }, headline(result), " ", result.name), h("span", { class: "quiet" }, place)),
    h("p", { class: "nll" }, h("b", {}, nllText(result)), " nats", aside(result)),
    isParticles(result) ? null : (percentileChart(result.percentile) ?? h("p", { class: "quiet" }, `No rank: too few held-out QM9 molecules have ${result.n_atoms} atoms.`)),
    partsChart(result.parts, result),
    result.atom_base?.length && h("p", { class: "key" }, "halo", h("span", { class: "ramp", "aria-hidden": "true" }), halos(result)),
    h("p", { class: "quiet" }, [how, !isParticles(result) && plural(result.draws, "draw"), `${result.nfe} evaluations`].filter(Boolean).join(", ")),
  ];
}

const halos = (result) => `${isParticles(result) ? "particles" : "atoms"} from far out in the noise, ${NEAR} to ${FAR} nats or more above the median`;

/** The text beside the NLL. */
function aside(result) {
  const energy = energyText(result);
  if (isParticles(result)) return energy && h("span", { class: "quiet" }, ` · energy ${energy}`);
  return h("span", { class: "quiet" }, ` · ${number(result.nll_per_atom, 2)} per atom`);
}

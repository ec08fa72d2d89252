// Score: the likelihood of uploaded structures.
import { announce, button, byId, h, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { Chooser } from "./chooser.js";
import { EXAMPLES } from "./examples.js";
import { saveButtons, saveFile } from "./files.js";
import { Job } from "./job.js";
import { ESTIMATE, EXACT } from "./likelihood.js";
import { Scores } from "./scores.js";
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
    this.view = new View({ zoomable: true });
    this.scores = new Scores((record) => this.show(record));
    this.build();
    this.files = [];
    this.chooser = new Chooser(this.form);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    acceptFiles(byId("score-drop"), byId("score-file"), (files) => this.take(files));
    const examples = EXAMPLES.map(({ name, xyz }) => button(name, () => this.put(xyz), { class: "small" }));
    byId("score-examples").append(...examples);
  }

  /** Puts the table, its downloads and the selected structure below the form. */
  build() {
    this.results = byId("score-results");
    this.lack = h("span", { class: "quiet" });
    this.saves = h("p", { class: "bar" }, h("span", { class: "quiet" }, "Download"), saveButtons(["sdf", "xyz"], (kind) => this.save(kind)), this.lack);
    this.shown = h("div", { class: "score" });
    this.results.append(this.scores.element, this.saves, this.shown);
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
    this.clear();
    Object.assign(this, { total: 0, moving: new Map() });
    announce("Scoring");
    const outcome = await this.job.run((signal) => this.work(uploads, this.options, signal));
    if (outcome === "done") this.sumUp("");
    if (outcome === "cancelled") this.sumUp("Cancelled: ");
    return undefined;
  }

  clear() {
    this.results.hidden = true;
    this.results.dataset.kind = this.form.dataset.kind;
    this.scores.clear(this.form.dataset.kind);
    this.lack.textContent = "";
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
    if (event.event !== "done") this.job.progress({ done: this.scores.records.length, under, total: this.total, noun: "structures" }, event);
  }

  /** Adds a result; results are received when they are finished. */
  settle(result, upload) {
    this.moving.delete(`${upload.order} ${result.index}`);
    const place = upload.count > 1 ? `${upload.name}, structure ${result.index + 1}` : upload.name;
    this.scores.add({ index: upload.order * 1e6 + result.index, place, name: result.name, result, upload });
    this.results.hidden = false;
    this.saves.hidden = !this.scores.scored.length;
  }

  sumUp(before) {
    const scored = this.scores.scored.length;
    const bad = this.scores.records.length - scored;
    this.job.say(`${before}${scored} ${scored === 1 ? "structure" : "structures"} scored${bad ? `, ${bad} could not be` : ""}`);
  }

  /** Downloads the scored structures as the service wrote them, in the order of the table. */
  save(kind) {
    const scored = this.scores.shown.map(({ result }) => result).filter(({ error }) => !error);
    this.lack.textContent = saveFile(scored, kind, `enflow-scores.${kind}`);
  }

  /** Shows the structure of a record in 3D with the parts of its score, or the reason why it has none. */
  show({ result, upload, place, name }) {
    this.shown.classList.toggle("bad", Boolean(result.error));
    if (result.error) {
      const { detail = result.error.message, errors } = result.error;
      const heading = name ? `${name} (${place}):` : `${place}:`;
      return showProblem(this.shown, { detail, errors, title: heading }, upload.data);
    }
    this.view.label = `${[name, title(result)].filter(Boolean).join(", ")}. Arrow keys turn it.`;
    this.view.zoom = 1;
    this.view.show(haloed(structureOf(result), result.atom_base));
    return this.shown.replaceChildren(this.view.element, h("div", { class: "score-body" }, words(result, place)));
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

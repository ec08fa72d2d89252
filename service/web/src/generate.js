// Generate: request molecules, show each when it is received, filter and download them.
import { announce, byId, copy, h, number } from "./dom.js";
import { completeAddress, replaceAddress } from "./address.js";
import { events } from "./api.js";
import { Chooser } from "./chooser.js";
import { Gallery } from "./gallery.js";
import { Job } from "./job.js";
import { ESTIMATE, EXACT, scores } from "./likelihood.js";
import { samplerIn, samplerOf } from "./sampler.js";
import { asCurl, asPython } from "./snippet.js";
import { PROPERTIES } from "./properties.js";
import { limits } from "./service.js";
import { sizeOf, textOf } from "./size.js";

const FRAMES = 24; // enough to replay a card smoothly: the page interpolates between them
const LIVE_LIMIT = 32; // with more molecules, pictures are shown only when they are finished
const FIRST = { n_molecules: 4, seed: 7 }; // the gallery of a visitor who has asked for nothing yet: without likelihoods, which take seconds of a core each
const FIELDS = ["count", "formula", "seed", "tolerance", "temperature", "refinements", "only", "nll", "where", "least", "most"];

export class Generate {
  /** ways: {open(molecule), watch(molecule)} */
  constructor(ways) {
    this.form = byId("generate-form");
    this.form.elements.where.append(...PROPERTIES.map(({ key, label, meaning }) => h("option", { value: key, title: meaning }, label)));
    this.job = new Job("generate");
    this.gallery = new Gallery(ways, { changed: () => this.remember(), sort: "valid" });
    byId("generate-results").append(this.gallery.element);
    this.chooser = new Chooser(this.form, () => this.offer());
    this.form.elements.formula.addEventListener("input", () => this.offer());
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    const way = (name, text) => byId(`copy-${name}`).addEventListener("click", ({ target }) => copy(text(), target));
    way("curl", () => asCurl(this.shown, this.scorer));
    way("python", () => asPython(this.shown, this.scorer));
    way("link", () => new URL(this.link, location).href);
    limits().then(({ max_molecules }) => (this.form.elements.count.max = max_molecules));
  }

  /** Called when the section is shown. */
  enter() {
    completeAddress(this.link);
  }

  /** Called when the section is shown without parameters: the first time there is a small gallery without a click. */
  async welcome() {
    await this.chooser.ready;
    if (!this.asked && this.chooser.card) this.run({ ...this.request, ...FIRST }, "none");
  }

  /** Shows the fields of the chosen model; a formula determines the number of atoms. */
  offer() {
    const { formula, atoms } = this.form.elements;
    byId("generate-lead").hidden = this.chooser.particles;
    formula.closest("label").hidden = !this.chooser.formulas && !formula.value;
    atoms.disabled = Boolean(formula.value);
  }

  /** The request that the form describes. */
  get request() {
    const { count, atoms, formula, seed, tolerance, only } = this.form.elements;
    const { name, particles } = this.chooser;
    const asked = { n_molecules: Number(count.value), seed: seed.value === "" ? null : Number(seed.value), tolerance: tolerance.value };
    if (particles) return { ...asked, model: name };
    const size = formula.value ? { formula: formula.value } : sizeOf(atoms.value);
    return { ...asked, ...samplerOf(this.form.elements), ...(name && { model: name }), ...size, only: only.value, properties: true, ...this.selection };
  }

  /** The conditions of the form on molecules, beside their validity. */
  get selection() {
    const { where, least, most, unique } = this.form.elements;
    const bounds = [least, most].map(({ value }) => (value === "" ? null : Number(value)));
    const bounded = where.value && bounds.some((bound) => bound !== null);
    return { ...(bounded && { where: { [where.value]: bounds } }), ...(unique.checked && { unique: true }) };
  }

  /** Copies the parameters of a link into the form, and runs the request if they contain a seed. */
  async restore(parameters) {
    await this.chooser.ready;
    if (parameters.has("seed")) this.form.reset(); // what the link does not name has its default
    const { elements } = this.form;
    for (const name of FIELDS) if (parameters.has(name)) elements[name].value = parameters.get(name);
    const { formula = "", n_atoms } = sizeOf(parameters.get("atoms") ?? ""); // links of older versions have the formula there
    if (formula) elements.formula.value = formula;
    else if (parameters.has("atoms")) elements.atoms.value = textOf({ n_atoms }) ?? "";
    elements.unique.checked = parameters.get("unique") === "true";
    this.chooser.choose(parameters.get("model"));
    this.gallery.restore(parameters);
    if (parameters.has("seed")) this.run();
  }

  /** Writes the request into the address, so that the address reproduces it. */
  remember() {
    if (!this.shown) return;
    const { n_molecules, seed, tolerance, only, model, formula, n_atoms, unique, where } = this.shown;
    const [[property, [least, most]]] = Object.entries(where ?? { "": [null, null] });
    const conditions = { ...(property && { where: property }), ...(least !== null && { least }), ...(most !== null && { most }), ...(unique && { unique }) };
    const atoms = textOf({ n_atoms });
    const what = { ...(model && { model }), ...(formula && { formula }), ...(atoms && { atoms }), ...(only && only !== "any" && { only }) };
    const state = { count: n_molecules, seed, tolerance, ...samplerIn(this.shown), ...what, ...conditions, ...this.gallery.state };
    if (this.nll !== "estimate") state.nll = this.nll;
    this.link = `#generate?${new URLSearchParams(state)}`;
    replaceAddress(this.link);
  }

  async run(request = this.request, nll = this.form.elements.nll.value) {
    this.nll = nll;
    const outcome = await this.job.run((signal) => this.work(request, signal));
    if (outcome === "replaced") return;
    if (outcome === "done") this.sumUp();
    if (outcome === "cancelled") this.job.say(`Cancelled: ${this.gallery.molecules.length} of ${request.n_molecules} molecules were finished.`);
    this.gallery.prune();
  }

  async work(request, signal) {
    this.begin(request);
    const frames = this.awaited && request.n_molecules <= LIVE_LIMIT ? FRAMES : 0;
    for await (const event of events("/sample", { ...request, frames }, signal)) this.take(event);
    if (this.scorer) await this.estimate(signal);
    if (this.scorer && request.formula) await this.compare(signal);
    this.scored = performance.now();
  }

  /** True if every running molecule gets a card; with `only`, rejected attempts get none. */
  get awaited() {
    return !this.picky;
  }

  get picky() {
    return (this.asked.only ?? "any") !== "any" || Boolean(this.asked.where || this.asked.unique);
  }

  /** The options of the likelihood request, or null: the model is in them unless it is the first. The density of particles is exact. */
  get scorer() {
    if (this.nll === "none") return null;
    const { seed } = this.shown;
    if (this.gallery.particles) return { model: this.model, ...EXACT, tolerance: this.asked.tolerance, seed };
    return { ...this.estimator, ...(this.asked.model || this.asked.formula ? { model: this.model } : {}), seed };
  }

  get estimator() {
    return this.nll === "exact" ? EXACT : ESTIMATE;
  }

  begin(request) {
    this.shown = null;
    this.asked = request;
    this.started = performance.now();
    this.moving = new Map();
    this.gallery.clear();
    this.gallery.kind = this.form.dataset.kind;
    byId("generate-share").hidden = true;
    announce(`Generating ${request.n_molecules} molecules`);
  }

  take(event) {
    if (event.event === "start") Object.assign(this, { shown: { ...this.asked, seed: event.seed }, model: event.model.name });
    else if (event.event === "progress") this.progress(event);
    else if (event.event === "frame") this.gallery.card(event.index).frame(event.frame);
    else if (event.event === "molecule") this.arrive(event.molecule);
    else if (event.event === "done") this.finish(event);
  }

  progress(event = {}) {
    for (const each of event.running ?? []) {
      if (this.awaited) this.gallery.card(each.index).progress(each);
      this.moving.set(each.index, each.share);
    }
    // With `only` an attempt may be rejected, so running attempts do not count as progress.
    const under = this.awaited ? [...this.moving.values()].reduce((sum, share) => sum + share, 0) : 0;
    this.job.progress({ done: this.gallery.molecules.length, under, total: this.asked.n_molecules, noun: "molecules", then: this.nll === "none" ? "" : ", then their likelihoods" }, event);
  }

  arrive(molecule) {
    this.moving.delete(molecule.index);
    this.gallery.add({ ...molecule, model: this.model, given: Boolean(this.asked.formula), asked: this.asked });
    this.progress();
    const [done, total] = [this.gallery.molecules.length, this.asked.n_molecules];
    if (done < total && done % Math.ceil(total / 4) === 0) announce(`${done} of ${total} molecules`);
  }

  finish({ attempts, failed }) {
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
    this.sampled = performance.now();
    this.tried = attempts.tried;
    byId("generate-share").hidden = false;
    this.remember();
  }

  /** Requests the likelihoods of the generated molecules. */
  async estimate(signal) {
    const { molecules } = this.gallery;
    if (!molecules.length) return;
    this.job.restart(`${molecules.length} ${this.gallery.particles ? "samples" : "molecules"} are finished; computing their likelihoods`);
    const under = new Map();
    let done = 0;
    const tell = ({ running = [] } = {}) => {
      for (const { index, share } of running) under.set(molecules[index].index, share);
      this.job.progress({ done, under: [...under.values()].reduce((sum, share) => sum + share, 0), total: molecules.length, noun: "likelihoods" });
    };
    for await (const [{ index }, score] of scores(molecules, this.scorer, signal, tell)) {
      this.gallery.score(index, score);
      done += 1;
      under.delete(index);
      tell();
    }
  }

  /** Requests the likelihoods of the joint model, for comparison with those of the formula model. */
  async compare(signal) {
    const { molecules } = this.gallery;
    if (!molecules.length) return;
    this.job.restart("Computing the likelihoods of the joint model");
    for await (const [{ index }, score] of scores(molecules, { ...this.estimator, seed: this.shown.seed }, signal)) this.gallery.compare(index, score);
  }

  sumUp() {
    const { molecules } = this.gallery;
    const count = (name) => molecules.filter((molecule) => molecule[name]).length;
    const extra = this.awaited ? "" : `, ${this.tried} tried`;
    const made = this.gallery.particles ? `${molecules.length} samples of ${this.model}` : `${molecules.length} molecules`;
    const verdicts = molecules.some(({ valid }) => valid !== undefined) ? `, ${count("valid")} valid, ${count("stable")} stable` : "";
    const scored = this.scorer ? `, their likelihoods in ${number((this.scored - this.sampled) / 1000)} s` : "";
    this.job.say(`${made} in ${number((this.sampled - this.started) / 1000)} s${scored}${verdicts}${extra} · seed ${this.shown.seed}`);
  }
}

// Generate: ask for molecules, watch them arrive, keep what is worth keeping.
import { announce, byId, copy, number } from "./dom.js";
import { events } from "./api.js";
import { Gallery } from "./gallery.js";
import { Job } from "./job.js";
import { ESTIMATE, scores } from "./likelihood.js";
import { asCurl, asPython } from "./snippet.js";
import { limits } from "./service.js";
import { sizeOf, textOf } from "./size.js";

const FRAMES = 24; // enough to replay a card smoothly: the page interpolates between them
const LIVE_LIMIT = 32; // with more molecules on the way, their pictures come when they are done
const FIELDS = ["count", "atoms", "seed", "tolerance", "only", "nll"];

export class Generate {
  /** ways: {open(molecule), watch(molecule)} */
  constructor(ways) {
    this.form = byId("generate-form");
    this.job = new Job("generate");
    this.gallery = new Gallery(ways, () => this.remember());
    byId("generate-results").append(this.gallery.element);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    const way = (name, text) => byId(`copy-${name}`).addEventListener("click", ({ target }) => copy(text(), target));
    way("curl", () => asCurl(this.shown, this.estimating));
    way("python", () => asPython(this.shown, this.estimating));
    way("link", () => location.href);
    limits().then(({ max_molecules }) => (this.form.elements.count.max = max_molecules));
  }

  /** The request the form describes. */
  get request() {
    const { count, atoms, seed, tolerance, only, nll } = this.form.elements;
    return {
      n_molecules: Number(count.value),
      ...sizeOf(atoms.value),
      seed: seed.value === "" ? null : Number(seed.value),
      tolerance: tolerance.value,
      only: only.value,
      with_nll: nll.value === "exact",
    };
  }

  /** Takes a link's parameters into the form; runs at once where they name a seed. */
  restore(parameters) {
    for (const name of FIELDS) if (parameters.has(name)) this.form.elements[name].value = parameters.get(name);
    this.gallery.restore(parameters);
    if (parameters.has("seed")) this.run();
  }

  /** Puts what is shown into the address, so that the address reproduces it. */
  remember() {
    if (!this.shown) return;
    const { n_molecules, seed, tolerance, only } = this.shown;
    const atoms = textOf(this.shown);
    const state = { count: n_molecules, seed, tolerance, ...(atoms && { atoms }), ...(only !== "any" && { only }), ...this.gallery.state };
    if (this.nll !== "estimate") state.nll = this.nll;
    history.replaceState(null, "", `#generate?${new URLSearchParams(state)}`);
  }

  async run() {
    const { request } = this;
    this.nll = this.form.elements.nll.value;
    const outcome = await this.job.run((signal) => this.work(request, signal));
    if (outcome === "replaced") return;
    if (outcome === "done") this.sumUp();
    if (outcome === "cancelled") this.job.say(`Cancelled: ${this.gallery.molecules.length} of ${request.n_molecules} molecules were finished.`);
    this.gallery.prune();
    byId("generate-empty").hidden = this.gallery.molecules.length > 0 || this.job.problem.hasChildNodes();
  }

  async work(request, signal) {
    this.begin(request);
    const frames = this.awaited && request.n_molecules <= LIVE_LIMIT ? FRAMES : 0;
    for await (const event of events("/sample", { ...request, frames }, signal)) this.take(event);
    if (this.estimating) await this.estimate(signal);
  }

  /** Whether every molecule under way will stay; with `only`, attempts that fail leave again and get no card. */
  get awaited() {
    return this.asked.only === "any";
  }

  get estimating() {
    return this.nll === "estimate";
  }

  begin(request) {
    this.shown = null;
    this.asked = request;
    this.started = performance.now();
    this.moving = new Map();
    this.gallery.clear();
    byId("generate-empty").hidden = true;
    byId("generate-share").hidden = true;
    announce(`Generating ${request.n_molecules} molecules`);
  }

  take(event) {
    if (event.event === "start") this.shown = { ...this.asked, seed: event.seed };
    else if (event.event === "progress") this.progress(event);
    else if (event.event === "frame") this.gallery.card(event.index).frame(event.frame);
    else if (event.event === "molecule") this.arrive(event.molecule);
    else if (event.event === "done") this.finish(event);
  }

  progress(event = {}) {
    for (const each of event.running ?? []) {
      if (this.awaited) this.gallery.card(each.index).progress(each);
      this.moving.set(each.index, each.t);
    }
    // With `only` an attempt may be in vain: what is under way is no share of what is asked.
    const under = this.awaited ? [...this.moving.values()].reduce((sum, t) => sum + t, 0) : 0;
    this.job.progress({ done: this.gallery.molecules.length, under, total: this.asked.n_molecules, noun: "molecules" }, event);
  }

  arrive(molecule) {
    this.moving.delete(molecule.index);
    this.gallery.add(molecule);
    this.progress();
    const [done, total] = [this.gallery.molecules.length, this.asked.n_molecules];
    if (done < total && done % Math.ceil(total / 4) === 0) announce(`${done} of ${total} molecules`);
  }

  finish({ attempts, failed }) {
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
    this.seconds = (performance.now() - this.started) / 1000;
    this.tried = attempts.tried;
    byId("generate-share").hidden = false;
    this.remember();
  }

  /** The molecules are here; their likelihoods follow. */
  async estimate(signal) {
    const { molecules } = this.gallery;
    if (!molecules.length) return;
    this.job.restart(`${molecules.length} molecules are here; estimating how likely they are`);
    const { seed } = this.shown;
    let done = 0;
    for await (const [{ index }, score] of scores(molecules, { ...ESTIMATE, seed }, signal)) {
      this.gallery.score(index, score);
      this.job.progress({ done: ++done, total: molecules.length, noun: "likelihoods estimated" });
    }
  }

  sumUp() {
    const { molecules } = this.gallery;
    const count = (name) => molecules.filter((molecule) => molecule[name]).length;
    const extra = this.awaited ? "" : `, ${this.tried} tried`;
    this.job.say(`${molecules.length} molecules in ${number(this.seconds)} s, ${count("valid")} valid, ${count("stable")} stable${extra} · seed ${this.shown.seed}`);
  }
}

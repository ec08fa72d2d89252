// Grow: molecules around a fragment, whose atoms stay where they are.
import { button, byId, copy, h, number } from "./dom.js";
import { completeAddress, replaceAddress } from "./address.js";
import { Problem, events } from "./api.js";
import { Fragment } from "./fragment.js";
import { Gallery } from "./gallery.js";
import { Job } from "./job.js";
import { showProblem } from "./problem.js";
import { samplerIn, samplerOf } from "./sampler.js";
import { limits, models } from "./service.js";
import { sizeOf, textOf } from "./size.js";
import { asCurl, asPython } from "./snippet.js";
import { fromSdf, fromXyz } from "./structure.js";
import { acceptFiles, formatOf } from "./upload.js";
import CORES from "./cores.json";

const FRAMES = 24; // as in Generate
const LIVE_LIMIT = 32;
const FIELDS = ["count", "seed", "tolerance", "temperature", "refinements", "nll", "keep", "attach"];
const MEANINGS = [
  ["connected", "good", "all atoms are in one piece with the fragment, which has a halo"],
  ["in pieces", "bad", "some atoms are apart from the fragment"],
];

export class Grow {
  /** ways: {open(molecule)} */
  constructor(ways) {
    this.form = byId("grow-form");
    this.job = new Job("grow");
    this.fragment = new Fragment(this.form);
    byId("grow-stage").append(this.fragment.element);
    this.gallery = new Gallery(ways, { changed: () => this.remember(), sort: "valid", meanings: MEANINGS });
    byId("grow-results").append(this.gallery.element);
    const { core, text } = this.form.elements;
    core.append(...Object.keys(CORES).map((name) => h("option", { value: name }, name)), h("option", { value: "" }, "your own"));
    core.addEventListener("change", () => (core.value ? this.useCore(core.value) : text.focus()));
    text.addEventListener("change", () => this.use(text.value, "pasted"));
    acceptFiles(byId("grow-sources"), byId("grow-file"), ([{ name, data }]) => this.use(data, name));
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    this.offerCopies();
    limits().then(({ max_molecules }) => (this.form.elements.count.max = max_molecules));
    models().then((cards) => this.offer(cards), () => {});
    this.useCore("cyclopentane");
  }

  /** Shows the form where a model that grows fragments is loaded, and otherwise how to get one. */
  offer(cards) {
    const able = cards.some(({ kind }) => kind === "fragment");
    this.form.hidden = !able;
    byId("grow-missing").hidden = able;
  }

  offerCopies() {
    const way = (label, text) => button(label, ({ target }) => copy(text(), target), { class: "small" });
    byId("grow-share").append(
      way("Copy link", () => new URL(this.link, location).href),
      way("Copy curl", () => asCurl(this.shown)),
      way("Copy Python", () => asPython(this.shown)),
    );
  }

  /** Called when the section is shown. */
  enter() {
    completeAddress(this.link);
  }

  useCore(name) {
    this.form.elements.core.value = name;
    this.form.elements.text.value = "";
    this.form.elements.clicks.value = "attach";
    this.source = { core: name };
    const structure = fromSdf(CORES[name]);
    this.fragment.show(structure, name);
    this.fragment.attach(structure.atoms.findIndex(({ z }) => z === 1)); // a core without an open bond would stay alone
  }

  /** Shows a structure as XYZ or SDF; only the service checks it. */
  use(text, name, clicks = "attach") {
    this.form.elements.core.value = "";
    this.form.elements.text.value = text;
    this.form.elements.clicks.value = clicks;
    byId("grow-problem").replaceChildren();
    try {
      const structure = formatOf(text) === "sdf" ? fromSdf(text) : fromXyz(text);
      if (!structure.atoms.length || structure.atoms.some(({ z, position }) => !z || !position.every(Number.isFinite))) throw new Error("no structure");
      this.source = { structure: text };
      this.fragment.show(structure, name);
    } catch {
      const detail = `Found ${text.trim() ? "a text that is neither" : "no text"}, expected one structure as XYZ or SDF with the elements H, C, N, O and F.`;
      showProblem(byId("grow-problem"), new Problem({ title: "The fragment cannot be read", detail }));
    }
  }

  /** Shows a generated molecule, of which a part is to be kept. */
  from(molecule) {
    this.use(molecule.xyz, molecule.formula, "keep");
    this.job.say("Click the atoms that stay; the others are made anew.");
  }

  /** The request that the form describes. */
  get request() {
    const { count, atoms, seed, tolerance, nll } = this.form.elements;
    const asked = { n_molecules: Number(count.value), seed: seed.value === "" ? null : Number(seed.value), tolerance: tolerance.value };
    return { ...this.fragment.request, ...asked, ...samplerOf(this.form.elements), ...sizeOf(atoms.value), with_nll: nll.value === "estimate", properties: true };
  }

  /** Copies the parameters of a link into the form, and runs the request if they contain a seed. */
  restore(parameters) {
    if (parameters.has("seed")) this.form.reset(); // what the link does not name has its default
    if (Object.hasOwn(CORES, parameters.get("core"))) this.useCore(parameters.get("core"));
    else if (parameters.has("structure")) this.use(parameters.get("structure"), "pasted");
    const { elements } = this.form;
    for (const name of FIELDS) if (parameters.has(name)) elements[name].value = parameters.get(name);
    elements.atoms.value = parameters.get("atoms") ?? "";
    this.fragment.draw();
    this.gallery.restore(parameters);
    if (parameters.has("seed")) this.run();
  }

  /** Writes the request into the address, so that the address reproduces it. */
  remember() {
    if (!this.shown) return;
    const atoms = textOf(this.shown);
    const { keep, attach, nll } = this.asked;
    const chosen = Object.entries({ ...this.asked.source, keep, attach, atoms, nll }).filter(([, value]) => value);
    const { n_molecules: count, seed, tolerance } = this.shown;
    this.link = `#grow?${new URLSearchParams({ ...Object.fromEntries(chosen), count, seed, tolerance, ...samplerIn(this.shown), ...this.gallery.state })}`;
    replaceAddress(this.link);
  }

  async run() {
    const { request } = this;
    const outcome = await this.job.run((signal) => this.work(request, signal));
    if (outcome === "replaced") return;
    const { molecules } = this.gallery;
    if (outcome === "cancelled") this.job.say(`Cancelled: ${molecules.length} of ${request.n_molecules} molecules were finished.`);
    if (outcome === "done") this.sumUp(molecules);
    this.gallery.prune();
  }

  async work(request, signal) {
    const { keep, attach, nll } = this.form.elements;
    this.asked = { source: this.source, keep: keep.value, attach: attach.value, nll: nll.value };
    this.shown = null;
    this.started = performance.now();
    this.gallery.clear();
    byId("grow-share").hidden = true;
    const frames = request.n_molecules <= LIVE_LIMIT ? FRAMES : 0;
    for await (const event of events("/sample", { ...request, frames }, signal)) this.take(event, request);
  }

  take(event, request) {
    if (event.event === "start") this.shown = { ...request, seed: event.seed };
    else if (event.event === "frame") this.gallery.card(event.index).frame(event.frame);
    else if (event.event === "molecule") this.gallery.add(event.molecule);
    else if (event.event === "done") this.finish(event);
    else this.progress(event, request);
  }

  progress(event, { n_molecules: total }) {
    for (const each of event.running ?? []) this.gallery.card(each.index).progress(each);
    const under = (event.running ?? []).reduce((sum, { share }) => sum + share, 0);
    this.job.progress({ done: this.gallery.molecules.length, under, total, noun: "molecules" }, event);
  }

  finish({ failed }) {
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
    byId("grow-share").hidden = false;
    this.remember();
  }

  sumUp(molecules) {
    const count = (name) => molecules.filter((molecule) => molecule[name]).length;
    const time = number((performance.now() - this.started) / 1000);
    this.job.say(`${molecules.length} molecules in ${time} s, ${count("connected")} connected, ${count("valid")} valid, ${count("stable")} stable · seed ${this.shown.seed}`);
  }
}

// Watch the flow: one molecule from noise to structure, live while it is integrated and afterwards on a slider.
import { announce, byId, h, number, prefersStill } from "./dom.js";
import { completeAddress, replaceAddress } from "./address.js";
import { Problem, events } from "./api.js";
import { Chooser } from "./chooser.js";
import { Job } from "./job.js";
import { samplerIn, samplerOf } from "./sampler.js";
import { View, animate } from "./view.js";
import { Path } from "./path.js";
import { lineChart, valueAt } from "./chart.js";
import { colourOf, elementOf } from "./elements.js";
import { facing } from "./orientation.js";
import { ESTIMATE, EXACT, scores } from "./likelihood.js";
import { formula, headline, isParticles, sentence } from "./molecule.js";
import { formulaOf, isDecided } from "./structure.js";
import { limits } from "./service.js";
import { sizeOf, textOf } from "./size.js";

const FRAMES = 60;
const PLAY_SECONDS = 7;
const LIVE_SECONDS = 0.35; // from one step of the solver to the next, about the time of a step on a CPU
const DENSITIES = { estimate: { ...ESTIMATE, probes: 8 }, exact: EXACT };
const FIELDS = ["atoms", "seed", "tolerance", "temperature", "refinements", "density"];

export class Flow {
  constructor(ways) {
    this.form = byId("flow-form");
    this.job = new Job("flow");
    this.slider = byId("flow-slider");
    this.view = new View({ label: "Nothing flows yet", zoomable: true });
    this.path = null;
    this.charts = [];
    this.stop = () => {};
    this.chooser = new Chooser(this.form);
    byId("flow-stage").prepend(this.view.element);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run(this.request)));
    this.slider.addEventListener("input", () => (this.pause(), this.at(Number(this.slider.value))));
    byId("flow-play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    byId("flow-open").addEventListener("click", () => ways.open(this.path.molecule));
    byId("flow-present").addEventListener("click", () => this.present());
  }

  /** Called when the section is shown. */
  enter() {
    completeAddress(this.link);
  }

  get request() {
    const { atoms, seed, tolerance } = this.form.elements;
    const { name, particles } = this.chooser;
    return {
      n_molecules: 1,
      ...(name && { model: name }),
      ...(particles ? {} : { ...sizeOf(atoms.value), ...samplerOf(this.form.elements) }),
      seed: seed.value === "" ? null : Number(seed.value),
      tolerance: tolerance.value,
    };
  }

  async restore(parameters) {
    await this.chooser.ready;
    if (parameters.has("seed")) this.form.reset(); // what the link does not name has its default
    for (const name of FIELDS) if (parameters.has(name)) this.form.elements[name].value = parameters.get(name);
    this.chooser.choose(parameters.get("model"));
    if (parameters.has("seed")) this.run({ ...this.request, first_index: Number(parameters.get("index") ?? 0) });
  }

  /** Repeats the trajectory of a generated molecule, from its seed, index and request. */
  async watch(molecule, { formula, tolerance = "standard", temperature = 1, refinements = "" } = {}) {
    await this.chooser.ready;
    const { elements } = this.form;
    this.chooser.choose(molecule.given ? null : molecule.model);
    elements.atoms.value = isParticles(molecule) ? "" : (formula ?? molecule.n_atoms);
    elements.seed.value = molecule.seed;
    elements.tolerance.value = tolerance;
    elements.temperature.value = temperature;
    elements.refinements.value = refinements;
    this.run({ ...this.request, first_index: molecule.index });
  }

  async run(request) {
    const outcome = await this.job.run((signal) => this.work(request, signal));
    if (outcome === "cancelled") this.job.say("Cancelled");
    else if (outcome === "done") this.job.words("");
  }

  async work(request, signal) {
    this.begin();
    const { max_frames } = await limits();
    for await (const event of events("/sample", { ...request, frames: Math.min(FRAMES, max_frames) }, signal)) this.take(event, request);
    const density = this.form.elements.density.value;
    if (this.path.molecule && density !== "none") await this.measure(DENSITIES[density], signal);
  }

  begin() {
    this.pause();
    this.path = new Path();
    this.link = null;
    this.density = null;
    this.view.quaternion = [0, 0, 0, 1];
    this.draw();
    byId("flow-hint").hidden = true;
    byId("flow-controls").disabled = true;
    announce("The flow starts");
  }

  take(event, request) {
    if (event.event === "start") this.set(event, request);
    else if (event.event === "frame") this.live(event.frame);
    else if (event.event === "progress") this.job.progress({ done: 0, under: event.running?.[0]?.share, total: 1, noun: "molecules" }, event);
    else if (event.event === "molecule") this.finish({ ...event.molecule, model: this.model, given: Boolean(request.formula), asked: request });
    else if (event.event === "done") this.lament(event.failed);
  }

  set({ seed, model }, request) {
    this.model = model.name;
    this.remember(request, seed);
  }

  lament([failure]) {
    if (failure) throw new Problem({ title: "The trajectory did not reach its end.", detail: failure.detail || failure.reason });
  }

  /** Writes the request into the address, so that the address reproduces it. */
  remember({ tolerance, first_index = 0, model, ...request }, seed) {
    this.seed = seed;
    const atoms = textOf(request);
    const state = { seed, index: first_index, tolerance, ...samplerIn(request), ...(model && { model }), ...(atoms && { atoms }) };
    this.link = `#flow?${new URLSearchParams(state)}`;
    replaceAddress(this.link);
  }

  /** Moves the picture to a new step of the solver. */
  live(frame) {
    this.path.add(frame);
    const from = this.path.frames.length > 1 ? Number(this.slider.value) : frame.t;
    this.stop();
    if (prefersStill()) this.at(frame.t);
    else this.stop = animate(LIVE_SECONDS, (share) => this.at(from + (frame.t - from) * share));
  }

  finish(molecule) {
    const { path } = this;
    path.finish(molecule);
    if (!path.frames.length) return;
    this.view.quaternion = facing(path.end.positions);
    this.view.label = `Trajectory of ${sentence(molecule)} from noise. Arrow keys rotate it, plus and minus zoom.`;
    this.draw();
    byId("flow-controls").disabled = false;
    announce(`Arrived: ${sentence(molecule)}`);
    this.slider.value = 1;
    this.play();
  }

  /** Computes the density along the path. It takes longer than the sampling, so the picture does not wait for it. */
  async measure(options, signal) {
    const { molecule } = this.path;
    this.job.restart("Measuring the log-density along the path");
    const how = isParticles(molecule) ? EXACT : options; // cheap for a few particles
    for await (const [, score] of scores([molecule], { ...how, model: this.model, seed: this.seed }, signal)) {
      Object.assign(molecule, { nll: score.nll, std_error: score.std_error, parts: score.parts, percentile: score.percentile });
      this.density = score.path;
      this.draw();
      this.at(Number(this.slider.value));
    }
  }

  /** Draws the charts for which there are values. */
  draw() {
    const cost = this.path.frames.length ? this.path.cost : null;
    const series = [[this.density, "log-density (nats)"], [cost, "evaluations of the network"]];
    this.charts = series.filter(([points]) => points?.length).map(([points, label]) => lineChart(points, label));
    byId("flow-charts").replaceChildren(...this.charts.map(({ element }) => element));
  }

  /** Shows the state at time t in the picture, the readouts and the charts. */
  at(t) {
    const { path } = this;
    const frame = path.frameAt(t);
    const structure = path.structureAt(t);
    this.view.move(structure, path.room);
    this.slider.value = t;
    this.slider.setAttribute("aria-valuetext", `t = ${number(t, 2)}`);
    this.charts.forEach((chart) => chart.at(t));
    byId("flow-t").textContent = number(t, 2);
    byId("flow-nfe").textContent = Math.round(valueAt(path.cost, t));
    byId("flow-density").textContent = this.density ? number(valueAt(this.density, t)) : "–";
    const particles = !frame.atomic_numbers;
    byId("flow-formula").replaceChildren(particles ? headline({ kind: "particles", n_particles: frame.positions.length }) : formulaSoFar(structure.atoms));
    byId("flow-legend").replaceChildren(...(particles ? [] : legend(structure.atoms.filter(isDecided).map(({ z }) => z))));
  }

  play() {
    this.stop();
    const from = Number(this.slider.value) >= 1 ? 0 : Number(this.slider.value);
    this.playing = true;
    byId("flow-play").textContent = "Pause";
    const step = (share) => this.at(from + (1 - from) * share);
    this.stop = animate(PLAY_SECONDS * (1 - from), step, () => this.pause());
  }

  pause() {
    this.stop();
    this.playing = false;
    byId("flow-play").textContent = "Play";
  }

  present() {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("flow-theatre").requestFullscreen?.();
  }
}

/** The formula when every atom has its type; before that, the number of atoms that have one. */
function formulaSoFar(atoms) {
  const decided = atoms.filter(isDecided);
  if (decided.length === atoms.length) return formula(formulaOf(atoms.map(({ z }) => z)));
  return h("span", { class: "quiet" }, `${decided.length} of ${atoms.length} atoms have a type`);
}

/** The elements present, with their colours. */
function legend(atomicNumbers) {
  return [...new Set(atomicNumbers)].sort((a, b) => a - b).map((z) => {
    const dot = h("i", { class: "dot", "aria-hidden": "true" });
    dot.style.background = colourOf(z);
    return h("li", {}, dot, elementOf(z).symbol);
  });
}

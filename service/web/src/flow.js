// Watch the flow: one molecule from noise to structure, live while it is integrated and afterwards on a slider.
import { announce, byId, h, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { View, animate } from "./view.js";
import { Path } from "./path.js";
import { lineChart, valueAt } from "./chart.js";
import { colourOf, elementOf } from "./elements.js";
import { facing } from "./orientation.js";
import { formula, sentence } from "./molecule.js";
import { formulaOf } from "./structure.js";
import { limits } from "./service.js";
import { showProblem } from "./problem.js";

const FRAMES = 60;
const PLAY_SECONDS = 7;

export class Flow {
  constructor(ways) {
    this.form = byId("flow-form");
    this.slider = byId("flow-slider");
    this.view = new View({ label: "Nothing flows yet", zoomable: true });
    this.path = null;
    this.charts = [];
    this.stop = () => {};
    byId("flow-stage").prepend(this.view.element);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run(this.request)));
    this.slider.addEventListener("input", () => (this.pause(), this.at(Number(this.slider.value))));
    byId("flow-play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    byId("flow-open").addEventListener("click", () => ways.open(this.path.molecule));
    byId("flow-cancel").addEventListener("click", () => this.abort?.abort());
    byId("flow-present").addEventListener("click", () => this.present());
  }

  get request() {
    const { atoms, seed, tolerance } = this.form.elements;
    return {
      n_molecules: 1,
      n_atoms: atoms.value === "" ? null : Number(atoms.value),
      seed: seed.value === "" ? null : Number(seed.value),
      tolerance: tolerance.value,
      with_nll: true,
    };
  }

  restore(parameters) {
    const { elements } = this.form;
    for (const name of ["atoms", "seed", "tolerance"]) if (parameters.has(name)) elements[name].value = parameters.get(name);
    if (parameters.has("seed")) this.run({ ...this.request, first_index: Number(parameters.get("index") ?? 0) });
  }

  /** Lets a generated molecule flow again: its seed and index fix it. */
  watch(molecule, tolerance) {
    const { elements } = this.form;
    elements.atoms.value = molecule.n_atoms;
    elements.seed.value = molecule.seed;
    elements.tolerance.value = tolerance;
    this.run({ ...this.request, first_index: molecule.index });
  }

  async run(request) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    this.pause();
    this.begin();
    try {
      const { max_frames } = await limits();
      for await (const event of events("/sample", { ...request, frames: Math.min(FRAMES, max_frames) }, abort.signal)) {
        if (abort.signal.aborted) return;
        this.take(event, request);
      }
    } catch (error) {
      if (error instanceof Problem) showProblem(byId("flow-problem"), error);
      else if (error.name !== "AbortError") throw error;
      else if (this.abort === abort) announce("Cancelled");
    }
    if (this.abort === abort) byId("flow-cancel").hidden = true;
  }

  begin() {
    this.path = new Path();
    this.charts = [];
    this.density = null;
    this.view.quaternion = [0, 0, 0, 1];
    byId("flow-problem").replaceChildren();
    byId("flow-charts").replaceChildren();
    byId("flow-hint").hidden = true;
    byId("flow-controls").disabled = true;
    byId("flow-cancel").hidden = false;
    announce("The flow begins");
  }

  take(event, request) {
    if (event.event === "start") this.remember(request, event.seed);
    else if (event.event === "frame") this.live(event.frame);
    else if (event.event === "molecule") this.finish(event.molecule);
    else if (event.event === "done") this.lament(event.failed);
  }

  lament([failure]) {
    if (failure) showProblem(byId("flow-problem"), { title: "The flow did not arrive.", detail: failure.detail || failure.reason });
  }

  remember({ n_atoms, tolerance, first_index = 0 }, seed) {
    const state = { seed, index: first_index, tolerance, ...(n_atoms !== null && { atoms: n_atoms }) };
    history.replaceState(null, "", `#flow?${new URLSearchParams(state)}`);
  }

  live(frame) {
    this.path.add(frame);
    this.at(frame.t);
  }

  finish(molecule) {
    const { path } = this;
    path.finish(molecule);
    if (!path.frames.length) return;
    this.view.quaternion = facing(path.end.positions);
    this.view.label = `The way of ${sentence(molecule)} from noise. Arrow keys turn it, plus and minus zoom.`;
    this.draw(molecule);
    byId("flow-controls").disabled = false;
    announce(`Arrived: ${sentence(molecule)}`);
    this.play();
  }

  draw(molecule) {
    this.density = molecule.path ?? null;
    const series = [this.density && [this.density, "log-density (nats)"], [this.path.cost, "evaluations of the network"]];
    this.charts = series.filter(Boolean).map(([points, label]) => lineChart(points, label));
    byId("flow-charts").replaceChildren(...this.charts.map(({ element }) => element));
  }

  /** Shows the state at t everywhere. */
  at(t) {
    const { path } = this;
    const frame = path.frameAt(t);
    this.view.move(path.structureAt(t), path.room);
    this.slider.value = t;
    this.slider.setAttribute("aria-valuetext", `t = ${number(t, 2)}`);
    this.charts.forEach((chart) => chart.at(t));
    byId("flow-t").textContent = number(t, 2);
    byId("flow-nfe").textContent = Math.round(valueAt(path.cost, t));
    byId("flow-density").textContent = this.density ? number(valueAt(this.density, t)) : "–";
    byId("flow-density").parentElement.hidden = !this.density;
    byId("flow-formula").replaceChildren(formula(formulaOf(frame.atomic_numbers)));
    byId("flow-legend").replaceChildren(...legend(frame.atomic_numbers));
  }

  play() {
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

/** The elements present, with their colours. */
function legend(atomicNumbers) {
  return [...new Set(atomicNumbers)].sort((a, b) => a - b).map((z) => {
    const dot = h("i", { class: "dot", "aria-hidden": "true" });
    dot.style.background = colourOf(z);
    return h("li", {}, dot, elementOf(z).symbol);
  });
}

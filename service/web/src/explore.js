// Explore: the way between two molecules, and the neighbourhood of one, in the latent space.
import { announce, byId, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { EXAMPLES } from "./examples.js";
import { Gallery } from "./gallery.js";
import { Slot } from "./slot.js";
import { View } from "./view.js";
import { facing } from "./orientation.js";
import { facts } from "./card.js";
import { ORDERS, sentence } from "./molecule.js";
import { structureOf } from "./structure.js";
import { showProblem } from "./problem.js";

export class Explore {
  constructor(ways) {
    this.slots = [new Slot("A", EXAMPLES[4]), new Slot("B", EXAMPLES[5])];
    byId("explore-slots").append(...this.slots.map((slot) => slot.element));
    this.view = new View({ label: "The way between A and B", zoomable: true });
    byId("explore-stage").prepend(this.view.element);
    this.slider = byId("explore-slider");
    this.slider.addEventListener("input", () => this.at(Number(this.slider.value)));
    this.gallery = new Gallery(ways);
    byId("explore-results").append(this.gallery.element);
    this.bind("interpolate", (form) => this.walk(form));
    this.bind("variations", (form) => this.vary(form));
    byId("explore-cancel").addEventListener("click", () => this.abort?.abort());
  }

  bind(name, action) {
    const form = byId(`${name}-form`);
    form.addEventListener("submit", (event) => (event.preventDefault(), action(form)));
    for (const knob of form.querySelectorAll("input[type=range]")) {
      knob.addEventListener("input", () => (knob.nextElementSibling.value = knob.value));
    }
  }

  /** Sets where to explore from: "A" or "B". */
  from(molecule, name) {
    this.slots[name === "A" ? 0 : 1].set({ name: molecule.formula, data: molecule.sdf ?? molecule.xyz, format: molecule.sdf ? "sdf" : "xyz" });
  }

  /** Asks for a walk; its molecules are shown as they arrive, and `whole` gets them all in order. */
  async ask(path, body, whole) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    this.busy(true);
    this.gallery.clear();
    try {
      for await (const event of events(path, body, abort.signal)) {
        if (event.event === "molecule") this.gallery.add(event.molecule);
        else if (event.event === "done") this.finish(event, whole);
      }
    } catch (error) {
      if (error instanceof Problem) showProblem(byId("explore-problem"), error);
      else if (error.name !== "AbortError") throw error;
    }
    if (this.abort === abort) this.busy(false);
  }

  finish({ failed }, whole) {
    const molecules = this.gallery.molecules.sort(ORDERS.index);
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
    if (molecules.length) whole(molecules);
  }

  busy(value) {
    byId("explore-cancel").hidden = !value;
    byId("explore-note").textContent = value ? "Walking the latent space…" : "";
    if (!value) return;
    byId("explore-problem").replaceChildren();
    byId("explore-stage").hidden = true;
  }

  walk({ elements }) {
    const structures = this.slots.map((slot) => slot.structure);
    return this.ask("/interpolate", { structures, steps: Number(elements.steps.value) }, (molecules) => {
      this.steps = molecules;
      byId("explore-stage").hidden = false;
      this.slider.max = molecules.length - 1;
      this.view.quaternion = facing(structureOf(molecules[0]).atoms.map((atom) => atom.position));
      this.at(0);
      announce(`${molecules.length} molecules from A to B; move the slider`);
    });
  }

  vary({ elements }) {
    const body = { structures: [this.slots[0].structure], n_molecules: Number(elements.count.value), scale: Number(elements.scale.value) };
    return this.ask("/variations", body, (molecules) => {
      announce(`${molecules.length} variations of A`);
    });
  }

  at(step) {
    const molecule = this.steps[step];
    const share = molecule.fraction ?? step / (this.steps.length - 1);
    this.slider.value = step;
    this.slider.setAttribute("aria-valuetext", `${number(100 * share, 0)} % of the way: ${sentence(molecule)}`);
    this.view.move(structureOf(molecule));
    this.view.label = `${sentence(molecule)}, ${number(100 * share, 0)} % of the way from A to B`;
    byId("explore-facts").replaceChildren(...facts(molecule));
  }
}

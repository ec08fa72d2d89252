// Explore: interpolation between two molecules in the latent space, and variations of one.
import { byId, number } from "./dom.js";
import { events } from "./api.js";
import { EXAMPLES } from "./examples.js";
import { Gallery } from "./gallery.js";
import { Job } from "./job.js";
import { Slot } from "./slot.js";
import { View } from "./view.js";
import { facing } from "./orientation.js";
import { facts } from "./card.js";
import { sentence } from "./molecule.js";
import { orderOf } from "./selection.js";
import { structureOf } from "./structure.js";

export class Explore {
  constructor(ways) {
    this.job = new Job("explore");
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
  }

  bind(name, action) {
    const form = byId(`${name}-form`);
    form.addEventListener("submit", (event) => (event.preventDefault(), action(form)));
    for (const knob of form.querySelectorAll("input[type=range]")) {
      knob.addEventListener("input", () => (knob.nextElementSibling.value = knob.value));
    }
  }

  /** Sets structure "A" or "B". */
  from(molecule, name) {
    this.slots[name === "A" ? 0 : 1].set({ name: molecule.formula, data: molecule.sdf ?? molecule.xyz, format: molecule.sdf ? "sdf" : "xyz" });
  }

  /** Requests a walk of `total` molecules and shows each when it is received; `whole` is called with all of them in order. */
  async ask(path, body, total, whole) {
    const outcome = await this.job.run((signal) => this.work(path, body, total, signal));
    if (outcome === "replaced") return;
    this.gallery.prune();
    const molecules = this.gallery.molecules.sort(orderOf("index"));
    if (outcome === "cancelled") this.job.say(`Cancelled: ${molecules.length} of ${total} molecules were finished.`);
    if (outcome === "done" && molecules.length) whole(molecules);
  }

  async work(path, body, total, signal) {
    this.gallery.clear();
    byId("explore-stage").hidden = true;
    this.job.words(path === "/interpolate" ? "Encoding: from the molecules back into the noise" : "Adding noise to A");
    for await (const event of events(path, body, signal)) {
      if (event.event === "molecule") this.gallery.add(event.molecule);
      if (event.event === "done") this.finish(event);
      else this.progress(event, total);
    }
  }

  finish({ failed, warnings }) {
    this.warnings = warnings ?? [];
    this.lament(failed);
  }

  lament(failed) {
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
  }

  progress(event, total) {
    for (const each of event.running ?? []) this.gallery.card(each.index).progress(each);
    const under = (event.running ?? []).reduce((sum, { t }) => sum + t, 0);
    this.job.progress({ done: this.gallery.molecules.length, under, total, noun: "molecules" }, event);
  }

  walk({ elements }) {
    const structures = this.slots.map((slot) => slot.structure);
    const steps = Number(elements.steps.value);
    return this.ask("/interpolate", { structures, steps }, steps, (molecules) => {
      this.steps = molecules;
      byId("explore-stage").hidden = false;
      this.slider.max = molecules.length - 1;
      this.view.quaternion = facing(structureOf(molecules[0]).atoms.map((atom) => atom.position));
      this.at(0);
      const said = [`${molecules.length} molecules from A to B: move the slider`, ...this.warnings];
      this.job.say(said.join(". "));
    });
  }

  vary({ elements }) {
    const [n_molecules, strength] = [Number(elements.count.value), Number(elements.strength.value)];
    const body = { structures: [this.slots[0].structure], n_molecules, strength, keep: elements.keep.value };
    return this.ask("/variations", body, n_molecules, (molecules) => {
      const same = molecules.filter((molecule) => molecule.kept === "graph").length;
      this.job.say(`${molecules.length} variations of A with ${number(100 * strength, 0)} % noise; ${same} with the same bonds`);
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

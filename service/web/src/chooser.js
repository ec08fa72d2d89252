// The choice of a model in a form. It is hidden if only one model is loaded; fields that do not apply to the chosen model are hidden.
import { h } from "./dom.js";
import { models } from "./service.js";

export class Chooser {
  /** form: has a select `model` in a label; fields for molecules only have the class "molecular". changed: called after each choice. */
  constructor(form, changed = () => {}) {
    this.form = form;
    this.select = form.elements.model;
    this.changed = changed;
    this.cards = [];
    this.select.addEventListener("change", () => this.heed());
    // A field that is not valid must be visible, or the browser refuses the form without a word.
    form.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
    /** Resolves when the models are known. */
    this.ready = models().then((cards) => this.offer(cards), () => {});
  }

  offer(cards) {
    this.cards = cards;
    // The model that takes formulas is used when the request has a formula.
    const named = cards.filter(({ takes_formulas }, i) => !takes_formulas || i === 0);
    this.select.replaceChildren(...named.map(({ name }) => h("option", { value: name }, name)));
    this.select.closest("label").hidden = named.length < 2;
    this.heed();
  }

  heed() {
    this.form.dataset.kind = this.card?.kind ?? "molecules";
    // The exact density of a few particles is cheap, so there is no estimate.
    for (const option of this.form.querySelectorAll("option[value=estimate]")) {
      option.textContent = this.particles ? "exact" : "estimate";
      option.parentElement.querySelector("[value=exact]").hidden = this.particles;
    }
    this.changed(this.card);
  }

  get card() {
    return this.cards.find(({ name }) => name === this.select.value);
  }

  get particles() {
    return this.card?.kind === "particles";
  }

  /** The model's name for a request; null for the first model, which is the default. */
  get name() {
    return this.card && this.card !== this.cards[0] ? this.card.name : null;
  }

  /** True if a model that takes formulas is loaded. */
  get formulas() {
    return this.cards.some(({ takes_formulas }) => takes_formulas);
  }

  /** Chooses a model by name; the first one if the name is unknown or missing. */
  choose(name) {
    this.select.value = this.cards.some((card) => card.name === name) ? name : (this.cards[0]?.name ?? "");
    this.heed();
  }
}

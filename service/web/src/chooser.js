// The choice of a model in a form: nothing is shown of it where there is but one, and fields that a model knows nothing of are hidden with it.
import { h } from "./dom.js";
import { models } from "./service.js";

export class Chooser {
  /** form: with a select `model` in a label; what is for molecules alone has the class "molecular". changed: told of each choice. */
  constructor(form, changed = () => {}) {
    this.form = form;
    this.select = form.elements.model;
    this.changed = changed;
    this.cards = [];
    this.select.addEventListener("change", () => this.heed());
    /** Settled once the choice can be made. */
    this.ready = models().then((cards) => this.offer(cards), () => {});
  }

  offer(cards) {
    this.cards = cards;
    // The model that takes formulas is chosen by giving it one.
    const named = cards.filter(({ takes_formulas }, i) => !takes_formulas || i === 0);
    this.select.replaceChildren(...named.map(({ name }) => h("option", { value: name }, name)));
    this.select.closest("label").hidden = named.length < 2;
    this.heed();
  }

  heed() {
    this.form.dataset.kind = this.card?.kind ?? "molecules";
    // Of a few particles the exact density costs little: no estimate is offered.
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

  /** The name to ask for; null for the first model, which answers where none is named. */
  get name() {
    return this.card && this.card !== this.cards[0] ? this.card.name : null;
  }

  /** Whether a model is loaded that takes formulas. */
  get formulas() {
    return this.cards.some(({ takes_formulas }) => takes_formulas);
  }

  /** Chooses by name; an unknown one, or none, is the first. */
  choose(name) {
    this.select.value = this.cards.some((card) => card.name === name) ? name : (this.cards[0]?.name ?? "");
    this.heed();
  }
}

// One molecule as a card: picture, properties and actions.
import { button, h, svg, number } from "./dom.js";
import { View } from "./view.js";
import { energyText, geometryNll, headline, isParticles, nllName, nllText, sentence, title, verdict } from "./molecule.js";
import { percentileChart } from "./chart.js";
import { structureOf, structureOfFrame } from "./structure.js";

export class Card {
  /** actions: {open(molecule), choose(card)}; a card without a molecule shows its progress. */
  constructor(index, actions) {
    this.index = index;
    this.actions = actions;
    this.molecule = null;
    this.view = new View({ label: `Molecule ${index + 1}, on its way`, open: () => this.molecule && actions.open(this.molecule) });
    this.body = h("div", { class: "card-body" });
    this.picture = h("div", { class: "card-picture" }, this.view.element);
    this.element = h("li", { class: "card pending", "data-index": index }, this.picture, this.body);
    this.wait();
  }

  wait() {
    this.ring = svg("circle", { r: 15, class: "ring", pathLength: 1, "stroke-dasharray": "0 1" });
    this.note = h("p", { class: "quiet" }, "waiting");
    const drawing = svg("svg", { viewBox: "-18 -18 36 36", class: "ring-box", "aria-hidden": "true" }, svg("circle", { r: 15, class: "rail" }), this.ring);
    this.body.replaceChildren(drawing, this.note);
  }

  progress({ t, nfe, share }) {
    if (this.molecule) return;
    this.ring.setAttribute("stroke-dasharray", `${share} 1`);
    this.note.textContent = `t = ${number(t, 2)} · ${nfe} evaluations`;
  }

  frame(frame) {
    if (!this.molecule) this.view.move(structureOfFrame(frame));
  }

  fail(detail) {
    this.element.classList.add("failed");
    this.note.textContent = detail;
  }

  fill(molecule) {
    this.molecule = molecule;
    this.element.classList.remove("pending");
    this.view.show(structureOf(molecule));
    this.view.label = `${sentence(molecule)}. Enlarge; arrow keys turn it.`;
    this.picture.append(this.pick());
    this.facts = h("div", { class: "card-facts" }, facts(molecule));
    this.body.replaceChildren(this.facts, this.tools());
  }

  /** Adds a likelihood that was computed after the molecule. */
  score({ nll, std_error, parts, percentile }) {
    this.tell({ nll, std_error, parts, percentile });
  }

  /** Adds the likelihood of another model. */
  compare({ nll, std_error }) {
    this.tell({ joint: { nll, std_error } });
  }

  tell(news) {
    Object.assign(this.molecule, news);
    this.view.label = `${sentence(this.molecule)}. Enlarge; arrow keys turn it.`;
    this.facts.replaceChildren(...facts(this.molecule));
  }

  get chosen() {
    return this.box?.checked ?? false;
  }

  set chosen(value) {
    this.box.checked = value;
    this.element.classList.toggle("chosen", value);
  }

  get name() {
    return `${isParticles(this.molecule) ? "sample" : "molecule"} ${this.index + 1}, ${title(this.molecule)}`;
  }

  pick() {
    this.box = h("input", {
      type: "checkbox",
      "aria-label": `Select ${this.name}`,
      onchange: () => {
        this.chosen = this.box.checked;
        this.actions.choose(this);
      },
    });
    return h("label", { class: "pick" }, this.box, `${this.index + 1}`);
  }

  tools() {
    const act = (label, action, what) =>
      button(label, () => action(this.molecule), { class: "small", "aria-label": `${what} ${this.name}` });
    return h(
      "div",
      { class: "card-tools" },
      this.actions.watch && act("Watch", this.actions.watch, "Watch the flow of"),
      this.molecule.sdf ? act("SDF", (molecule) => this.actions.save(molecule, "sdf"), "Download SDF of") : null,
      act("XYZ", (molecule) => this.actions.save(molecule, "xyz"), "Download XYZ of"),
    );
  }
}

/** The distances from the start and from the end of a walk. */
const ways = ({ distance, distance_to_end }) =>
  [[distance, "A"], [distance_to_end, "B"]]
    .filter(([length]) => Number.isFinite(length))
    .flatMap(([length, name], i) => [i ? ", " : "", h("b", {}, number(length, 2)), ` Å from ${name}`]);

/** The NLL of particles or of a molecule. For a given formula: the NLL of the geometry, and beside it that of the joint model. */
function likelihood(molecule) {
  const nll = nllText(molecule);
  if (!nll) return [];
  if (!molecule.given) return [h("p", { class: "fact nll" }, nllName(molecule), " ", h("b", {}, nll), " nats"), percentileChart(molecule.percentile)];
  const own = `−log p(geometry | formula): of the path alone. With the formula's own share ${nll} nats, which is what the joint model's NLL compares with.`;
  return [
    h("p", { class: "fact", title: own }, "NLL p(geometry | formula) ", h("b", {}, number(geometryNll(molecule))), " nats"),
    h("p", { class: "fact" }, "with the formula ", h("b", {}, nll), molecule.joint ? [", joint model ", h("b", {}, nllText(molecule.joint))] : null, " nats"),
  ];
}

/** A label that says if a molecule around a fragment is in one piece. */
const pieces = ({ connected }) =>
  typeof connected === "boolean" && h("span", { class: `chip ${connected ? "good" : "bad"}` }, connected ? "connected" : "in pieces");

/** Formula, validity, NLL and SMILES of a molecule, or energy and NLL of particles, as elements. */
export function facts(molecule) {
  if (isParticles(molecule)) {
    const energy = energyText(molecule);
    const told = energy && h("p", { class: "fact", title: "of the known potential, in units of the temperature" }, "energy ", h("b", {}, energy));
    return [h("p", { class: "headline" }, headline(molecule), h("span", { class: "quiet" }, molecule.model)), told, ...likelihood(molecule)].filter(Boolean);
  }
  const [word, kind, why] = verdict(molecule);
  return [
    h("p", { class: "headline" }, headline(molecule), h("span", { class: "row" }, h("span", { class: `chip ${kind}`, title: why }, word), pieces(molecule))),
    ...likelihood(molecule),
    molecule.smiles && h("p", { class: "smiles", title: molecule.smiles }, molecule.smiles),
    Number.isFinite(molecule.distance) && h("p", { class: "fact" }, ways(molecule)),
    kind !== "good" && h("p", { class: "reason" }, why),
  ].filter(Boolean);
}

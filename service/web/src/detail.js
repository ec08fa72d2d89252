// One molecule in a large view: picture, all properties, and actions.
import { button, byId, copy, download, h, number } from "./dom.js";
import { View } from "./view.js";
import { asSdf, asXyz, energyText, geometryNll, headline, isParticles, nameOf, nllText, sentence, verdict } from "./molecule.js";
import { partsChart, percentileChart } from "./chart.js";
import { structureOf } from "./structure.js";

const row = (name, value) => (value === null || value === undefined || value === "" ? [] : [h("dt", {}, name), h("dd", {}, value)]);

/** All properties of a molecule in the answer, as a definition list. */
function table(molecule) {
  const [word, kind, why] = isParticles(molecule) ? [] : verdict(molecule);
  const nll = nllText(molecule);
  const { bonds } = molecule;
  return h(
    "dl",
    { class: "facts" },
    row("Model", molecule.model),
    row("Energy", energyText(molecule)),
    row("Log weight", Number.isFinite(molecule.log_weight) && [number(molecule.log_weight, 2), ": of exp(−energy) over the density"]),
    row("Verdict", word && [h("span", { class: `chip ${kind}` }, word), " ", why]),
    row("SMILES", molecule.smiles && h("code", {}, molecule.smiles)),
    row("Atoms", molecule.n_atoms),
    row("NLL", nll && `${nll} nats`),
    row("NLL p(geometry | formula)", nll && molecule.given && `${number(geometryNll(molecule))} nats`),
    row("NLL, joint model", molecule.joint && `${nllText(molecule.joint)} nats`),
    row("Bonds", bonds && [bonds.method ?? bonds.status, bonds.reason].filter(Boolean).join(": ")),
    row("Solver", molecule.nfe && `${molecule.nfe} evaluations`),
    row("Seed, index", Number.isFinite(molecule.seed) && `${molecule.seed}, ${molecule.index}`),
  );
}

/** ways: [[label, action(molecule)]], shown as buttons; each closes the dialog. */
export function showDetail(molecule, ways) {
  const dialog = byId("detail");
  const view = new View({ label: `${sentence(molecule)}. Arrow keys turn it, plus and minus zoom.`, zoomable: true });
  const onward = ways(molecule).map(([label, act]) => button(label, () => (dialog.close(), act(molecule))));
  const smiles = molecule.smiles && button("Copy SMILES", (event) => copy(molecule.smiles, event.target));
  const save = (kind, write, type) => button(kind.toUpperCase(), () => download(`${nameOf(molecule)}.${kind}`, write([molecule]), type));
  dialog.replaceChildren(
    h("header", {}, h("h2", { id: "detail-title" }, headline(molecule)), button("Close", () => dialog.close(), { class: "small" })),
    view.element,
    h(
      "div",
      { class: "detail-body" },
      table(molecule),
      molecule.parts && partsChart(molecule.parts, molecule),
      percentileChart(molecule.percentile),
      h("div", { class: "row" }, onward, smiles, molecule.sdf && save("sdf", asSdf, "chemical/x-mdl-sdfile"), save("xyz", asXyz, "chemical/x-xyz")),
    ),
  );
  view.show(structureOf(molecule));
  dialog.showModal();
}

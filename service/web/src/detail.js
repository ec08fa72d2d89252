// One molecule in a large view: picture, all properties, and actions.
import { button, byId, copy, download, h, number } from "./dom.js";
import { Problem, image } from "./api.js";
import { Measure } from "./measure.js";
import { View } from "./view.js";
import { asSdf, asXyz, nameOf } from "./files.js";
import { energyText, geometryNll, headline, isParticles, nllText, sentence, verdict } from "./molecule.js";
import { PROPERTIES, textOf, valueOf } from "./properties.js";
import { partsChart, percentileChart } from "./chart.js";
import { structureOf } from "./structure.js";
import { theme } from "./elements.js";

const row = (name, value) => (value || value === 0 ? [h("dt", {}, name), h("dd", {}, value)] : []);

const NEW = new Map([
  [true, "QM9 has no molecule with these bonds"],
  [false, "QM9 has a molecule with these bonds"],
]);

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
    row("NLL", nll ? `${nll} nats` : molecule.nll_error),
    row("NLL p(geometry | formula)", nll && molecule.given && `${number(geometryNll(molecule))} nats`),
    row("NLL, joint model", molecule.joint && `${nllText(molecule.joint)} nats`),
    row("Bonds", bonds && [bonds.method ?? bonds.status, bonds.reason].filter(Boolean).join(": ")),
    row("Solver", molecule.nfe && `${molecule.nfe} evaluations`),
    row("Seed, index", Number.isFinite(molecule.seed) && `${molecule.seed}, ${molecule.index}`),
  );
}

/** The properties by RDKit, as a definition list. */
function properties(molecule) {
  const known = PROPERTIES.filter(({ key }) => valueOf(molecule, key) !== null);
  const numbers = known.flatMap((column) => row(h("abbr", { title: column.meaning }, column.label), textOf(molecule, column)));
  return h("dl", { class: "facts" }, numbers, row("New", NEW.get(molecule.properties.novel)));
}

/** The skeletal formula of a SMILES, drawn by the service; nothing where it cannot be drawn. */
function depiction(smiles) {
  const picture = h("img", { class: "depiction", alt: `Skeletal formula of ${smiles}`, width: 320, height: 240 });
  image(`/depiction?${new URLSearchParams({ smiles, theme: theme() })}`).then(
    (address) => Object.assign(picture, { src: address, onload: () => URL.revokeObjectURL(address) }),
    (problem) => {
      if (!(problem instanceof Problem)) throw problem;
      picture.remove();
    },
  );
  return picture;
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
      new Measure(view).element,
      h(
        "div",
        { class: "detail-facts" },
        h("div", {}, table(molecule), percentileChart(molecule.percentile), molecule.parts && partsChart(molecule.parts, molecule)),
        h("div", {}, molecule.smiles && depiction(molecule.smiles), molecule.properties && properties(molecule)),
      ),
      h("div", { class: "row" }, onward, smiles, molecule.sdf && save("sdf", asSdf, "chemical/x-mdl-sdfile"), save("xyz", asXyz, "chemical/x-xyz")),
    ),
  );
  view.show(structureOf(molecule));
  dialog.showModal();
}

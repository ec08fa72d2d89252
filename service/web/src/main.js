// The page: five sections behind one address, and the ways between them.
import { byId } from "./dom.js";
import { showDetail } from "./detail.js";
import { theme } from "./elements.js";
import { Explore } from "./explore.js";
import { Flow } from "./flow.js";
import { Generate } from "./generate.js";
import { showHero } from "./hero.js";
import { Model } from "./model.js";
import { Score } from "./score.js";
import { repaint } from "./view.js";

const SECTIONS = ["generate", "flow", "score", "explore", "model"];

const go = (name) => {
  location.hash = name;
  byId(name).focus({ preventScroll: true });
};

const replayable = (molecule) => Number.isFinite(molecule.seed) && molecule.distance === undefined && molecule.fraction === undefined;

/** What can be done with a molecule from its large view. */
const onward = (molecule) =>
  [
    replayable(molecule) && ["Watch it flow", watch],
    ["Score it", (each) => (go("score"), score.put(each.xyz))],
    ["Explore as A", (each) => (explore.from(each, "A"), go("explore"))],
    ["Explore as B", (each) => (explore.from(each, "B"), go("explore"))],
  ].filter(Boolean);

const open = (molecule) => showDetail(molecule, onward);

function watch(molecule) {
  go("flow");
  flow.watch(molecule, generate.shown?.tolerance ?? "standard");
}

const generate = new Generate({ open, watch });
const flow = new Flow({ open });
const score = new Score();
const explore = new Explore({ open });
const model = new Model();

function show() {
  const [wanted, query = ""] = location.hash.slice(1).split("?");
  const name = SECTIONS.includes(wanted) ? wanted : "generate";
  for (const section of SECTIONS) byId(section).hidden = section !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(name).dataset.title} · Enflow`;
  if (name === "model") model.enter();
  return { name, parameters: new URLSearchParams(query) };
}

/** Shows what the address says, and brings back what it reproduces. */
function arrive() {
  const { name, parameters } = show();
  if (parameters.size) ({ generate, flow })[name]?.restore(parameters);
}

function recolour() {
  repaint();
  showHero(byId("hero"));
}

function toggleTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  recolour();
}

addEventListener("hashchange", arrive);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
byId("theme").addEventListener("click", toggleTheme);

showHero(byId("hero"));
arrive();

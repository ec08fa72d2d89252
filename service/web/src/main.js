// The page: its views, and navigation between them. A view is a module and a section of the same name.
import { NAMES, arrived } from "./address.js";
import { byId } from "./dom.js";
import { showDetail } from "./detail.js";
import { theme } from "./elements.js";
import { Explore } from "./explore.js";
import { Flow } from "./flow.js";
import { Generate } from "./generate.js";
import { Grow } from "./grow.js";
import { showHero } from "./hero.js";
import { Model } from "./model.js";
import { Jobs } from "./jobs.js";
import { isParticles } from "./molecule.js";
import { beginPulse } from "./pulse.js";
import { Score } from "./score.js";
import { models } from "./service.js";
import { repaint } from "./view.js";

/** A view may have enter(), called when its section is shown, then restore(parameters of the address) or, without parameters, welcome(). */
const VIEWS = {
  generate: () => new Generate({ open, watch }),
  grow: () => new Grow({ open }),
  flow: () => new Flow({ open }),
  score: () => new Score(),
  explore: () => new Explore({ open }),
  jobs: () => new Jobs(),
  model: () => new Model(),
};
const made = new Map();

/** Returns the view of this name and creates it if necessary. */
function view(name) {
  if (!made.has(name)) made.set(name, VIEWS[name]());
  return made.get(name);
}

const go = (name) => {
  location.hash = name;
  byId(name).focus({ preventScroll: true });
};

const replayable = (molecule) => Number.isFinite(molecule.seed) && ["distance", "fraction", "fragment_atoms"].every((name) => molecule[name] === undefined);

let growing = false; // true where a model that grows fragments is loaded
models().then((cards) => (growing = cards.some(({ kind }) => kind === "fragment")), () => {});

/** The actions of a molecule's large view. */
const onward = (molecule) =>
  [
    replayable(molecule) && ["Watch it flow", watch],
    !isParticles(molecule) && growing && ["Keep a part, grow the rest", (each) => (view("grow").from(each), go("grow"))],
    ["Score it", (each) => (go("score"), view("score").put(each.xyz, each.model))],
    ...(isParticles(molecule) ? [] : ["A", "B"]).map((slot) => [`Explore as ${slot}`, (each) => (view("explore").from(each, slot), go("explore"))]),
  ].filter(Boolean);

const open = (molecule) => showDetail(molecule, onward);

function watch(molecule) {
  go("flow");
  view("flow").watch(molecule, molecule.asked);
}

function show() {
  const { name, parameters } = arrived();
  for (const each of NAMES) byId(each).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(name).dataset.title} · Enflow`;
  view(name).enter?.();
  return { name, parameters };
}

/** Shows the view of the address and restores its parameters. */
function arrive() {
  const { name, parameters } = show();
  if (parameters.size) view(name).restore?.(parameters);
  else view(name).welcome?.();
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

/** Moves the focus behind the navigation; the address keeps the name of the view. */
function skip(event) {
  event.preventDefault();
  byId("main").focus();
}

addEventListener("hashchange", arrive);
byId("skip").addEventListener("click", skip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
byId("theme").addEventListener("click", toggleTheme);

showHero(byId("hero"));
beginPulse();
arrive();

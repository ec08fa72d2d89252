// Two painters of the same structure: 3Dmol.js where there is WebGL, an SVG projection where there is none.
// Both obey draw(structure) and pose(quaternion, middle, radius, zoom).
import { colourOf, elementOf } from "./elements.js";
import { rotate } from "./orientation.js";
import { h, svg } from "./dom.js";

const HALF_ANGLE = (10 * Math.PI) / 180; // 3Dmol's camera looks 20 degrees wide from 150 angstrom
const CAMERA = 150;
const MARGIN = 0.7; // angstrom around the outermost nucleus
const BALL = 0.34; // of the covalent radius, and a little for all
const STICK = 0.11;
const ORDERS = { doubleBondScaling: 0.6, tripleBondScaling: 0.45 }; // of the stick's radius: thick enough to be counted on a card

const ballOf = (z) => 0.14 + BALL * elementOf(z).radius;
const element = (atom) => colourOf(atom.z, atom.certainty);
const colour = (atom) => atom.colour ?? element(atom); // a ball may show something else; the stick still says what it is

let loading = null;
let Viewer = null;

/** Loads 3Dmol once; true where this browser can draw with it. All viewers then share one offscreen WebGL context. */
export function prepare() {
  loading ??= load();
  return loading;
}

async function load() {
  if (typeof OffscreenCanvas === "undefined" || !new OffscreenCanvas(1, 1).getContext("webgl2")) return false;
  const library = await import("./3Dmol.js").catch(() => null);
  if (!library) return false;
  Viewer = class extends library.GLViewer {
    /** A viewer in a hidden section has no size, and drawing into none is an error of WebGL. */
    resize() {
      if (this.container.clientWidth && this.container.clientHeight) super.resize();
    }
  };
  return true;
}

export class Solid {
  constructor(parent) {
    this.element = h("div", { class: "painter" });
    parent.append(this.element);
    this.viewer = new Viewer(this.element, { backgroundAlpha: 0, nomouse: true, disableFog: true });
    this.element.querySelector("canvas").setAttribute("aria-hidden", "true");
  }

  draw({ atoms, bonds }) {
    const specs = atoms.map((atom) => ({
      elem: elementOf(atom.z).symbol,
      x: atom.position[0],
      y: atom.position[1],
      z: atom.position[2],
      bonds: [],
      bondOrder: [],
      style: { sphere: { radius: ballOf(atom.z), color: colour(atom) }, stick: { radius: STICK, color: element(atom), ...ORDERS } },
    }));
    for (const [i, j, order] of bonds) {
      specs[i].bonds.push(j);
      specs[i].bondOrder.push(order);
      specs[j].bonds.push(i);
      specs[j].bondOrder.push(order);
    }
    this.viewer.removeAllModels();
    this.viewer.addModel().addAtoms(specs);
  }

  pose(quaternion, middle, radius, zoom) {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return;
    const narrow = Math.min(1, clientWidth / Math.max(clientHeight, 1));
    const away = (radius + MARGIN) / (Math.sin(HALF_ANGLE) * narrow * zoom);
    this.viewer.setView([...middle.map((value) => -value), CAMERA - away, ...quaternion]);
    this.viewer.render();
  }
}

export class Flat {
  constructor(parent) {
    this.element = svg("svg", { class: "painter", viewBox: "-50 -50 100 100", "aria-hidden": "true" });
    parent.append(this.element);
  }

  draw(structure) {
    this.structure = structure;
  }

  pose(quaternion, middle, radius, zoom) {
    const scale = (48 / (radius + MARGIN)) * zoom;
    const placed = this.structure.atoms.map((atom) => {
      const [x, y, z] = rotate(quaternion, atom.position.map((value, k) => value - middle[k]));
      return { atom, x: x * scale, y: -y * scale, z };
    });
    const sticks = this.structure.bonds.map(([i, j, order]) => ({
      z: (placed[i].z + placed[j].z) / 2 - 0.01,
      shape: stick(placed[i], placed[j], order, scale),
    }));
    const balls = placed.map(({ atom, x, y, z }) => ({
      z,
      shape: svg("circle", { cx: x, cy: y, r: ballOf(atom.z) * scale, fill: colour(atom), class: "ball" }),
    }));
    const far = [...sticks, ...balls].sort((a, b) => a.z - b.z);
    this.element.replaceChildren(...far.map(({ shape }) => shape));
  }
}

/** One to three parallel strokes, each half in the colour of its end. */
function stick(from, to, order, scale) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [nx, ny] = [-(to.y - from.y) / length, (to.x - from.x) / length];
  const [mx, my] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  const group = svg("g", { "stroke-width": (STICK * 2 * scale) / (order > 1 ? 1.6 : 1), "stroke-linecap": "round" });
  for (let k = 0; k < Math.min(order, 3); k++) {
    const shift = (k - (order - 1) / 2) * 0.3 * scale;
    const [dx, dy] = [nx * shift, ny * shift];
    for (const end of [from, to]) {
      const ends = { x1: end.x + dx, y1: end.y + dy, x2: mx + dx, y2: my + dy };
      group.append(svg("line", { ...ends, stroke: element(end.atom) }));
    }
  }
  return group;
}

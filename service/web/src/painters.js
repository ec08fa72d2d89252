// Two painters of a structure: 3Dmol.js with WebGL, otherwise an SVG projection.
// Both have draw(structure, pose, sharpness); a pose is {quaternion, middle, radius, zoom}.
import { colourOf, elementOf, theme } from "./elements.js";
import { rotate } from "./orientation.js";
import { h, svg } from "./dom.js";

const HALF_ANGLE = (10 * Math.PI) / 180; // 3Dmol's camera looks 20 degrees wide from 150 angstrom
const CAMERA = 150;
const MARGIN = 0.7; // angstrom around the outermost nucleus
const BALL = 0.34; // share of the covalent radius, plus a constant
const STICK = 0.11;
const ORDERS = { doubleBondScaling: 0.6, tripleBondScaling: 0.45 }; // shares of the stick's radius: bond orders are visible on a card

const ballOf = (z) => 0.14 + BALL * elementOf(z).radius;
const element = (atom) => colourOf(atom.z, atom.certainty);
const colour = (atom) => atom.colour ?? element(atom); // a ball may have another colour; the stick has that of the element

let loading = null;
let camera = null;

/** Loads 3Dmol once; true if this browser can draw with it. */
export function prepare() {
  loading ??= load();
  return loading;
}

async function load() {
  if (typeof OffscreenCanvas === "undefined" || !new OffscreenCanvas(1, 1).getContext("webgl2")) return false;
  const library = await import("./3Dmol.js").catch(() => null);
  if (library) camera = new Camera(library.GLViewer);
  return camera !== null;
}

/** The one viewer of the page. Its drawing is copied, so that finished pictures cost nothing. */
class Camera {
  constructor(GLViewer) {
    class Viewer extends GLViewer {
      resize() {
        if (this.renderer.isLost()) super.resize(); // its size is set for each picture
      }
      show(...rest) {
        if (!this.silent) super.show(...rest);
      }
      /** Sets the view like setView, which also draws; with render after it everything would be drawn twice. */
      place(view) {
        this.silent = true;
        this.setView(view);
        this.silent = false;
      }
    }
    const element = h("div", { class: "camera", "aria-hidden": "true" });
    document.body.append(element);
    // Drawing larger and copying smaller gives smooth edges: for a card of 236 pixels a software GPU
    // (SwiftShader) then needs 17 ms, and 43 ms with 3Dmol's own antialias.
    // The background is transparent but its colour is visible at edges: white edges would be bright in the dark theme.
    this.viewer = new Viewer(element, { backgroundColor: "black", backgroundAlpha: 0, nomouse: true, disableFog: true, antialias: false });
    this.canvas = element.querySelector("canvas");
  }

  /** Draws into this.canvas, of so many pixels. */
  shoot(structure, { quaternion, middle, radius, zoom }, width, height) {
    const { viewer } = this;
    viewer.resize();
    this.frame(width, height);
    const away = (radius + MARGIN) / (Math.sin(HALF_ANGLE) * Math.min(1, width / height) * zoom);
    const view = [...middle.map((value) => -value), CAMERA - away, ...quaternion];
    if (this.structure === structure && this.theme === theme()) return void viewer.setView(view);
    Object.assign(this, { structure, theme: theme() });
    viewer.removeAllModels();
    viewer.addModel().addAtoms(specsOf(structure));
    viewer.place(view);
    return void viewer.render();
  }

  frame(width, height) {
    const size = `${width} ${height} ${devicePixelRatio}`;
    if (this.size === size) return;
    this.size = size;
    this.viewer.setWidth(width / devicePixelRatio); // 3Dmol multiplies by it
    this.viewer.setHeight(height / devicePixelRatio);
  }
}

function specsOf({ atoms, bonds }) {
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
  return specs;
}

export class Solid {
  constructor(parent) {
    this.element = h("canvas", { class: "painter", "aria-hidden": "true" });
    parent.append(this.element);
  }

  /** sharpness: how many times finer than the screen it is drawn before it is copied. */
  draw(structure, pose, sharpness) {
    const { element } = this;
    const [width, height] = [element.clientWidth, element.clientHeight].map((length) => Math.round(length * devicePixelRatio));
    camera.shoot(structure, pose, sharpness * width, sharpness * height);
    Object.assign(element, { width, height }); // clears it
    const pen = element.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(camera.canvas, 0, 0, width, height);
  }
}

export class Flat {
  constructor(parent) {
    this.element = svg("svg", { class: "painter", viewBox: "-50 -50 100 100", "aria-hidden": "true" });
    parent.append(this.element);
  }

  draw(structure, { quaternion, middle, radius, zoom }) {
    const scale = (48 / (radius + MARGIN)) * zoom;
    const placed = structure.atoms.map((atom) => {
      const [x, y, z] = rotate(quaternion, atom.position.map((value, k) => value - middle[k]));
      return { atom, x: x * scale, y: -y * scale, z };
    });
    const sticks = structure.bonds.map(([i, j, order]) => ({
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

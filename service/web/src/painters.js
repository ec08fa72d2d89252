// Two painters of a structure: 3Dmol.js with WebGL, otherwise an SVG projection.
// Both have draw(structure, pose, sharpness) and project(pose), a function from a position to pixels and pixels per angstrom;
// a pose is {quaternion, middle, radius, zoom, style}. An atom with a `halo` {colour, share} gets a disc behind it.
import { colourOf, elementOf, theme } from "./elements.js";
import { rotate } from "./orientation.js";
import { h, svg } from "./dom.js";

const HALF_ANGLE = (10 * Math.PI) / 180; // 3Dmol's camera looks 20 degrees wide from 150 angstrom
const CAMERA = 150;
const ORDERS = { doubleBondScaling: 0.6, tripleBondScaling: 0.45 }; // shares of the stick's radius: bond orders are visible on a card

/** How atoms are drawn: the radii of balls and sticks, and the room around the outermost nucleus, in angstrom. */
export const STYLES = {
  balls: { name: "ball and stick", ball: (z) => 0.14 + 0.34 * elementOf(z).radius, stick: 0.11, margin: 0.7 },
  sticks: { name: "sticks", ball: () => 0.13, stick: 0.13, margin: 0.5 },
  spheres: { name: "space-filling", ball: (z) => elementOf(z).vdw, stick: 0.11, margin: 1.7 },
};
const HALO = 0.3; // angstrom around the ball

const colour = (atom) => colourOf(atom.z, atom.certainty);

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
  shoot(structure, pose, width, height) {
    const { viewer } = this;
    viewer.resize();
    this.frame(width, height);
    const view = [...pose.middle.map((value) => -value), CAMERA - away(pose, width, height), ...pose.quaternion];
    if (this.structure === structure && this.style === pose.style && this.theme === theme()) return void viewer.setView(view);
    Object.assign(this, { structure, style: pose.style, theme: theme() });
    viewer.removeAllModels();
    viewer.addModel().addAtoms(specsOf(structure, STYLES[pose.style]));
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

const opacityOf = ({ share }) => 0.35 + 0.4 * share;

/** The distance of the camera from the middle. */
const away = ({ radius, zoom, style }, width, height) =>
  (radius + STYLES[style].margin) / (Math.sin(HALF_ANGLE) * Math.min(1, width / height) * zoom);

function specsOf({ atoms, bonds }, { ball, stick }) {
  const specs = atoms.map((atom) => ({
    elem: elementOf(atom.z).symbol,
    x: atom.position[0],
    y: atom.position[1],
    z: atom.position[2],
    bonds: [],
    bondOrder: [],
    style: { sphere: { radius: ball(atom.z), color: colour(atom) }, stick: { radius: stick, color: colour(atom), ...ORDERS } },
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
    this.halos(pen, structure.atoms.filter(({ halo }) => halo), pose);
  }

  /** Paints halos behind the picture, so that every atom keeps its colour. */
  halos(pen, atoms, pose) {
    const project = this.project(pose);
    pen.globalCompositeOperation = "destination-over";
    pen.scale(devicePixelRatio, devicePixelRatio);
    for (const { position, z: number, halo } of atoms) {
      const { x, y, scale } = project(position);
      Object.assign(pen, { fillStyle: halo.colour, globalAlpha: opacityOf(halo) });
      pen.beginPath();
      pen.arc(x, y, (STYLES[pose.style].ball(number) + HALO) * scale, 0, 2 * Math.PI);
      pen.fill();
    }
  }

  project(pose) {
    const { clientWidth: width, clientHeight: height } = this.element;
    const distance = away(pose, width, height);
    return (position) => {
      const [x, y, z] = rotate(pose.quaternion, position.map((value, k) => value - pose.middle[k]));
      const scale = height / (2 * Math.tan(HALF_ANGLE) * (distance - z));
      return { x: width / 2 + x * scale, y: height / 2 - y * scale, z, scale };
    };
  }
}

export class Flat {
  constructor(parent) {
    this.element = svg("svg", { class: "painter", viewBox: "-50 -50 100 100", "aria-hidden": "true" });
    parent.append(this.element);
  }

  draw(structure, { quaternion, middle, radius, zoom, style = "balls" }) {
    const { ball, stick: thickness, margin } = STYLES[style];
    const scale = (48 / (radius + margin)) * zoom;
    const placed = structure.atoms.map((atom) => {
      const [x, y, z] = rotate(quaternion, atom.position.map((value, k) => value - middle[k]));
      return { atom, x: x * scale, y: -y * scale, z };
    });
    const sticks = structure.bonds.map(([i, j, order]) => ({
      z: (placed[i].z + placed[j].z) / 2 - 0.01,
      shape: stick(placed[i], placed[j], order, scale, thickness),
    }));
    const balls = placed.map(({ atom, x, y, z }) => ({
      z,
      shape: svg("circle", { cx: x, cy: y, r: ball(atom.z) * scale, fill: colour(atom), class: "ball" }),
    }));
    const halos = placed.filter(({ atom }) => atom.halo).map(({ atom, x, y, z }) => ({
      z: z - 0.005,
      shape: svg("circle", { cx: x, cy: y, r: (ball(atom.z) + HALO) * scale, fill: atom.halo.colour, "fill-opacity": opacityOf(atom.halo), class: "halo" }),
    }));
    const far = [...sticks, ...halos, ...balls].sort((a, b) => a.z - b.z);
    this.element.replaceChildren(...far.map(({ shape }) => shape));
  }

  project({ quaternion, middle, radius, zoom, style }) {
    const { clientWidth: width, clientHeight: height } = this.element;
    const scale = ((48 / (radius + STYLES[style].margin)) * zoom * Math.min(width, height)) / 100;
    return (position) => {
      const [x, y, z] = rotate(quaternion, position.map((value, k) => value - middle[k]));
      return { x: width / 2 + x * scale, y: height / 2 - y * scale, z, scale };
    };
  }
}

/** One to three parallel strokes, each half in the colour of its end. */
function stick(from, to, order, scale, radius) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [nx, ny] = [-(to.y - from.y) / length, (to.x - from.x) / length];
  const [mx, my] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  const group = svg("g", { "stroke-width": (radius * 2 * scale) / (order > 1 ? 1.6 : 1), "stroke-linecap": "round" });
  for (let k = 0; k < Math.min(order, 3); k++) {
    const shift = (k - (order - 1) / 2) * 0.3 * scale;
    const [dx, dy] = [nx * shift, ny * shift];
    for (const end of [from, to]) {
      const ends = { x1: end.x + dx, y1: end.y + dy, x2: mx + dx, y2: my + dy };
      group.append(svg("line", { ...ends, stroke: colour(end.atom) }));
    }
  }
  return group;
}

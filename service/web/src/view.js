// A view shows one structure, which can be rotated by drag, keys and pinch. It keeps its picture, so scrolling draws nothing.
import { h, prefersStill } from "./dom.js";
import { Flat, Solid, prepare } from "./painters.js";
import { IDENTITY, centre, extent, facing, multiply, turn } from "./orientation.js";

const BUDGET_MS = 10; // of drawing per animation frame, so that the page stays fluid with many views
const FINE = 2; // times the screen's pixels, for smooth edges
const REST_MS = 200; // without a move, after which a fast drawing is replaced by a fine one
const HELD = 256; // pictures kept: 60 MB of cards on a plain screen, four times as much on a fine one
const STEP = Math.PI / 12;
const KEYS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const ZOOMS = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 };

const holders = new Set(); // views that hold a picture, the oldest first
const dirty = new Set();
let Painter = null; // known when 3Dmol is loaded or unavailable

const watcher = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => target.view.approach(isIntersecting)), {
  rootMargin: "200px",
});
const ruler = new ResizeObserver((entries) => entries.forEach(({ target }) => target.view.resize()));

/** Calls `work` once after `wait` for any number of requests. */
function once(wait, work) {
  let asked = false;
  const run = () => ((asked = false), work());
  return () => asked || ((asked = true), wait(run));
}

const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
const soon = once(requestAnimationFrame.bind(window), () => paint((view) => view.near, soon));
const later = once(idle, () => paint((view) => !view.near && holders.size < HELD, later)); // views outside the window are drawn when the browser is idle

function schedule(view) {
  dirty.add(view);
  (view.near ? soon : later)();
}

function paint(wanted, again) {
  const start = performance.now();
  for (const view of dirty) {
    if (!wanted(view)) continue;
    if (performance.now() - start > BUDGET_MS) return void again();
    dirty.delete(view);
    view.paint();
  }
}

/** Frees memory for one more picture: first of removed views, then of the oldest view outside the window. */
function hold(view) {
  for (const each of holders) if (!each.element.isConnected || (holders.size >= HELD && !each.near)) each.release();
  holders.add(view);
}

/** Draws all pictures again after a change of colours. */
export const repaint = () => [...holders].forEach((view) => view.refresh());

export class View {
  /** label: text for screen readers; open: called on click and Enter, which makes the view a button; pick: called with the pixels of a click. */
  constructor({ label = "", open = null, pick = null, zoomable = false } = {}) {
    this.element = h("div", { class: "stage", tabindex: 0, role: open ? "button" : "img", "aria-label": label });
    this.element.view = this;
    this.open = open;
    this.pick = pick;
    this.style = "balls";
    this.overlay = null; // called with the projection after each picture
    this.structure = null;
    this.painter = null;
    this.quaternion = IDENTITY;
    this.zoom = 1;
    this.near = false; // in the window or close to it
    this.moving = false;
    this.slow = false; // true if a fine picture takes longer than a frame
    this.listen(zoomable);
    watcher.observe(this.element);
    ruler.observe(this.element);
  }

  set label(text) {
    this.element.setAttribute("aria-label", text);
  }

  /** Shows a structure in its best pose. */
  show(structure) {
    this.quaternion = facing(structure.atoms.map((atom) => atom.position));
    this.place(structure);
    this.refresh();
  }

  /** Shows the next state of the same structure with the same pose and zoom. `room` fixes the scale for a trajectory. */
  move(structure, room = null) {
    this.place(structure, room);
    this.stir();
  }

  place(structure, room = null) {
    const positions = structure.atoms.map((atom) => atom.position);
    this.structure = structure;
    this.middle = room?.middle ?? centre(positions);
    this.radius = room?.radius ?? extent(positions, this.middle);
  }

  /** Schedules a new picture. */
  refresh() {
    this.moving = false;
    this.size = null;
    schedule(this);
  }

  /** Schedules a new picture, soon followed by another. */
  stir() {
    this.refresh();
    this.moving = true;
  }

  approach(near) {
    this.near = near;
    if (near && this.size === null) schedule(this);
  }

  get measured() {
    return `${this.element.clientWidth} ${this.element.clientHeight}`;
  }

  resize() {
    if (this.size !== this.measured) this.refresh();
  }

  paint() {
    if (!this.structure || !this.element.clientWidth) return;
    if (!Painter) return void prepare().then((solid) => ((Painter = solid ? Solid : Flat), schedule(this)));
    this.painter ??= new Painter(this.element);
    hold(this);
    const hasty = this.moving && this.slow;
    const start = performance.now();
    this.painter.draw(this.structure, this, hasty ? 1 : FINE);
    if (!hasty) this.slow = performance.now() - start > BUDGET_MS;
    this.overlay?.(this.painter.project(this));
    this.size = this.measured;
    clearTimeout(this.rest);
    if (hasty) this.rest = setTimeout(() => this.refresh(), REST_MS);
    return undefined;
  }

  release() {
    this.painter.element.remove();
    this.painter = null;
    this.size = null;
    holders.delete(this);
  }

  turn(dx, dy) {
    this.quaternion = multiply(turn(dx, dy), this.quaternion);
    this.stir();
  }

  magnify(factor) {
    this.zoom = Math.min(6, Math.max(0.4, this.zoom * factor));
    this.stir();
  }

  reset() {
    this.zoom = 1;
    if (this.structure) this.quaternion = facing(this.structure.atoms.map((atom) => atom.position));
    this.refresh();
  }

  listen(zoomable) {
    const element = this.element;
    const pointers = new Map();
    let travelled = 0;
    element.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event);
      element.setPointerCapture(event.pointerId);
      travelled = 0;
    });
    element.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      travelled += Math.abs(dx) + Math.abs(dy);
      if (pointers.size === 1) this.turn((dx * 4) / element.clientWidth, (dy * 4) / element.clientWidth);
      else if (zoomable) this.magnify(pinch(pointers, event));
      pointers.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, (event) => pointers.delete(event.pointerId));
    element.addEventListener("click", ({ offsetX, offsetY }) => travelled < 6 && (this.open?.(), this.pick?.(offsetX, offsetY)));
    element.addEventListener("dblclick", () => this.open || this.reset());
    element.addEventListener("keydown", (event) => this.key(event));
    if (zoomable) element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  wheel(event) {
    if (document.activeElement !== this.element) return; // without focus, the wheel scrolls the page
    event.preventDefault();
    this.magnify(Math.exp(-event.deltaY / 500));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (KEYS[event.key]) this.turn(...KEYS[event.key]);
    else if (ZOOMS[event.key]) this.magnify(ZOOMS[event.key]);
    else if (event.key === "0") this.reset();
    else if (this.open && (event.key === "Enter" || event.key === " ")) this.open();
    else return;
    event.preventDefault();
  }
}

/** The factor by which two fingers moved apart. */
function pinch(pointers, event) {
  const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
  const before = pointers.get(event.pointerId);
  const reach = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY) || 1;
  return reach(event) / reach(before);
}

/** Calls `step(share)` with 0 to 1 over `seconds`; at once if the user prefers reduced motion. Returns a function that stops it. */
export function animate(seconds, step, done = () => {}) {
  if (prefersStill()) {
    step(1);
    done();
    return () => {};
  }
  let start = null;
  let handle = requestAnimationFrame(function tick(now) {
    start ??= now;
    const share = Math.min(1, (now - start) / (1000 * seconds));
    step(share);
    if (share < 1) handle = requestAnimationFrame(tick);
    else done();
  });
  return () => cancelAnimationFrame(handle);
}

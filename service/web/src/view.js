// A view shows one structure and lets it be turned by drag, keys and pinch. Only views on screen hold a painter; the others lend theirs on.
import { h, prefersStill } from "./dom.js";
import { Flat, Solid, prepare } from "./painters.js";
import { IDENTITY, centre, extent, facing, multiply, turn } from "./orientation.js";

const BUDGET_MS = 10; // of drawing per animation frame, so that the page stays fluid with many views
const STEP = Math.PI / 12;
const KEYS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const ZOOMS = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 };

const views = new Map(); // element -> View, of those on screen
const spare = []; // painters of views that left it
const dirty = new Set();
let scheduled = false;

const watcher = new IntersectionObserver(
  (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? target.view.enter() : target.view.leave())),
  { rootMargin: "200px" },
);

function schedule(view) {
  dirty.add(view);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(paint);
}

function paint() {
  const start = performance.now();
  for (const view of dirty) {
    dirty.delete(view);
    view.paint();
    if (performance.now() - start > BUDGET_MS) break;
  }
  scheduled = dirty.size > 0;
  if (scheduled) requestAnimationFrame(paint);
}

/** Draws everything on screen anew, when the colours changed. */
export const repaint = () => views.forEach((view) => view.refresh());

export class View {
  /** label: what a screen reader says; open: called on click and Enter, which makes the view a button. */
  constructor({ label = "", open = null, zoomable = false } = {}) {
    this.element = h("div", { class: "stage", tabindex: 0, role: open ? "button" : "img", "aria-label": label });
    this.element.view = this;
    this.open = open;
    this.structure = null;
    this.painter = null;
    this.quaternion = IDENTITY;
    this.zoom = 1;
    this.drawn = false;
    this.listen(zoomable);
    watcher.observe(this.element);
  }

  set label(text) {
    this.element.setAttribute("aria-label", text);
  }

  /** Shows a structure in its best pose. */
  show(structure) {
    this.quaternion = facing(structure.atoms.map((atom) => atom.position));
    this.move(structure);
  }

  /** Shows the next state of the same thing: pose and zoom stay. `room` fixes the frame for a whole path. */
  move(structure, room = null) {
    const positions = structure.atoms.map((atom) => atom.position);
    this.structure = structure;
    this.middle = room?.middle ?? centre(positions);
    this.radius = room?.radius ?? extent(positions, this.middle);
    this.refresh();
  }

  refresh() {
    this.drawn = false;
    schedule(this);
  }

  enter() {
    views.set(this.element, this);
    this.refresh();
  }

  async borrow() {
    const solid = await prepare();
    if (!views.has(this.element) || this.painter) return;
    this.painter = spare.pop() ?? new (solid ? Solid : Flat)(this.element);
    this.painter.element.classList.add("stale"); // it may still show another's molecule
    this.element.append(this.painter.element);
    schedule(this);
  }

  leave() {
    views.delete(this.element);
    if (!this.painter) return;
    this.painter.element.remove();
    spare.push(this.painter);
    this.painter = null;
    this.drawn = false;
  }

  paint() {
    if (!this.structure || !views.has(this.element)) return;
    if (!this.painter) return void this.borrow();
    if (!this.drawn) this.painter.draw(this.structure);
    this.drawn = true;
    this.painter.pose(this.quaternion, this.middle, this.radius, this.zoom);
    this.painter.element.classList.remove("stale");
  }

  turn(dx, dy) {
    this.quaternion = multiply(turn(dx, dy), this.quaternion);
    schedule(this);
  }

  magnify(factor) {
    this.zoom = Math.min(6, Math.max(0.4, this.zoom * factor));
    schedule(this);
  }

  reset() {
    this.zoom = 1;
    if (this.structure) this.quaternion = facing(this.structure.atoms.map((atom) => atom.position));
    schedule(this);
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
    element.addEventListener("click", () => travelled < 6 && this.open?.());
    element.addEventListener("dblclick", () => this.open || this.reset());
    element.addEventListener("keydown", (event) => this.key(event));
    if (zoomable) element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  wheel(event) {
    if (document.activeElement !== this.element) return; // until it is chosen, the wheel scrolls the page
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

/** How much two fingers moved apart. */
function pinch(pointers, event) {
  const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
  const before = pointers.get(event.pointerId);
  const reach = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY) || 1;
  return reach(event) / reach(before);
}

/** Calls `step(share)` with 0 to 1 over `seconds`; at once where motion is not wanted. Returns a way to stop it. */
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

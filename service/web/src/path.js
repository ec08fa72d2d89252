// A trajectory from noise to a structure: frames over t, and the states between them.
import { inSpace, structureOf, structureOfFrame } from "./structure.js";
import { extent } from "./orientation.js";

const ORIGIN = [0, 0, 0]; // the flow keeps the centre of mass there

export class Path {
  constructor() {
    this.frames = [];
    this.molecule = null;
  }

  add(frame) {
    const positions = frame.positions.map(inSpace);
    this.frames = this.frames.filter(({ t }) => t < frame.t); // a refinement goes back in time
    this.frames.push({ ...frame, positions });
    this.reach = Math.max(this.reach ?? 0, extent(positions, ORIGIN));
  }

  get end() {
    return this.frames.at(-1);
  }

  /** Evaluations of the network up to t, as points. */
  get cost() {
    return this.frames.map(({ t, nfe }) => [t, nfe]);
  }

  /** One scale for the whole trajectory, so that the size of the picture is constant. */
  get room() {
    return { middle: ORIGIN, radius: this.reach };
  }

  finish(molecule) {
    this.molecule = molecule;
    if (molecule.frames?.length) {
      this.frames = [];
      molecule.frames.forEach((frame) => this.add(frame));
    }
  }

  /** The frame at t, straight between the two around it; types are those of the nearer one. */
  frameAt(t) {
    const after = this.frames.findIndex((frame) => frame.t >= t);
    if (after <= 0) return after < 0 ? this.end : this.frames[0];
    const [a, b] = [this.frames[after - 1], this.frames[after]];
    const share = (t - a.t) / (b.t - a.t || 1);
    const between = (x, y) => x + (y - x) * share;
    return {
      t,
      atomic_numbers: (share < 0.5 ? a : b).atomic_numbers,
      positions: a.positions.map((p, i) => p.map((value, k) => between(value, b.positions[i][k]))),
      certainty: a.certainty?.map((value, i) => between(value, b.certainty[i])),
    };
  }

  /** The structure at t; at the end the molecule with its bond orders. */
  structureAt(t) {
    if (t >= 1 && this.molecule) return structureOf(this.molecule);
    return structureOfFrame(this.frameAt(t));
  }
}

// The picture of an empty page: the straight line from noise to a molecule, as in the training.
import { h, number } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { facing, centre, extent } from "./orientation.js";
import { Flat } from "./painters.js";
import { fromXyz, structureOfFrame } from "./structure.js";

const MOMENTS = [0, 0.4, 0.65, 0.85, 1];

/** Gaussian noise with a fixed seed (mulberry32, Box and Muller). */
function normals(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export function showHero(list) {
  const molecule = fromXyz(EXAMPLES.at(-1).xyz);
  const ends = molecule.atoms.map(({ position }) => position);
  const normal = normals(4);
  const noise = ends.map(() => [normal(), normal(), normal()]);
  const quaternion = facing(ends);
  list.replaceChildren();
  for (const t of MOMENTS) {
    const positions = ends.map((end, i) => end.map((value, k) => t * value + (1 - t) * noise[i][k]));
    const certainty = ends.map(() => t);
    const item = h("li");
    const painter = new Flat(item);
    const structure = structureOfFrame({ t, atomic_numbers: molecule.atoms.map(({ z }) => z), positions, certainty });
    painter.draw(structure, { quaternion, middle: centre(positions), radius: Math.max(3, extent(ends, centre(ends))), zoom: 1 });
    item.append(`t = ${number(t, 2)}`);
    list.append(item);
  }
}

// The atom of a view under a click, and the name of an atom.
import { elementOf } from "./elements.js";
import { STYLES } from "./painters.js";

const REACH = 14; // pixels around an atom in which a click finds it

/** The index of the atom at these pixels, the nearest to the eye; undefined beside all atoms. */
export function atomAt(view, x, y) {
  const project = view.painter?.project(view);
  const reach = (atom, scale) => Math.max(REACH, STYLES[view.style].ball(atom.z) * scale);
  return (project ? view.structure.atoms : [])
    .map((atom, index) => ({ index, atom, ...project(atom.position) }))
    .filter((spot) => Math.hypot(spot.x - x, spot.y - y) < reach(spot.atom, spot.scale))
    .sort((a, b) => b.z - a.z)[0]?.index;
}

/** The symbol and the number of an atom, from 1. */
export const nameOf = (atoms, index) => `${elementOf(atoms[index].z).symbol}${index + 1}`;

/** The indices of typed numbers of atoms, each once, in order of typing. */
export function indicesOf(text, atoms) {
  const numbers = text.split(/[\s,;]+/).filter(Boolean).map((word) => Number(word) - 1);
  return [...new Set(numbers)].filter((index) => atoms[index]);
}

/** Numbers from 1 for indices, as they are typed. */
export const numbersOf = (indices) => indices.map((index) => index + 1).join(" ");

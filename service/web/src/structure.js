// A structure for drawing: {atoms: [{z: atomic number, position, certainty}], bonds: [[i, j, order]]}, from an answer of the service.
import { elementOf, numberOf } from "./elements.js";
import { distance } from "./geometry.js";

const atom = (z, position, certainty = 1) => ({ z, position, certainty });

const PARTICLE = 18;

/** Particles in two dimensions get z = 0. */
export const inSpace = ([x, y, z = 0]) => [x, y, z];

/** Particles have neither elements nor bonds. */
const fromPositions = (positions) => ({ atoms: positions.map((position) => atom(PARTICLE, inSpace(position))), bonds: [] });

/** Bonds by distance alone, for structures without bonds: closer than 1.2 times the sum of the covalent radii. */
export function nearBonds(atoms) {
  const bonds = [];
  for (let i = 0; i < atoms.length; i++) {
    for (let j = 0; j < i; j++) {
      const reach = 1.2 * (elementOf(atoms[i].z).radius + elementOf(atoms[j].z).radius);
      if (distance(atoms[i].position, atoms[j].position) < reach) bonds.push([j, i, 1]);
    }
  }
  return bonds;
}

function fromNumbers(atomicNumbers, positions, certainty) {
  const atoms = atomicNumbers.map((z, i) => atom(z, positions[i], certainty[i]));
  return { atoms, bonds: nearBonds(atoms) };
}

/** The first record of an SDF in the V2000 or V3000 layout. */
export function fromSdf(text) {
  const lines = text.split(/\r?\n/);
  return lines[3].includes("V3000") ? fromV3000(lines) : fromV2000(lines);
}

function fromV2000(lines) {
  const nAtoms = parseInt(lines[3].slice(0, 3), 10);
  const nBonds = parseInt(lines[3].slice(3, 6), 10);
  const atoms = lines.slice(4, 4 + nAtoms).map((line) =>
    atom(
      numberOf(line.slice(31, 34).trim()),
      [0, 10, 20].map((at) => parseFloat(line.slice(at, at + 10))),
    ),
  );
  const bonds = lines.slice(4 + nAtoms, 4 + nAtoms + nBonds).map((line) => {
    const [i, j, order] = [0, 3, 6].map((at) => parseInt(line.slice(at, at + 3), 10));
    return [i - 1, j - 1, order];
  });
  return { atoms, bonds };
}

function fromV3000(lines) {
  const block = (name) => {
    const words = lines.map((line) => line.replace(/^M\s+V30\s+/, ""));
    return words.slice(words.indexOf(`BEGIN ${name}`) + 1, words.indexOf(`END ${name}`)).map((line) => line.split(/\s+/));
  };
  const atoms = block("ATOM").map(([, symbol, ...rest]) => atom(numberOf(symbol), rest.slice(0, 3).map(Number)));
  const bonds = block("BOND").map(([, order, i, j]) => [Number(i) - 1, Number(j) - 1, Number(order)]);
  return { atoms, bonds };
}

/** The first frame of an XYZ file; the service checks files, this only draws accepted ones. */
export function fromXyz(text) {
  const lines = text.split(/\r?\n/);
  const nAtoms = parseInt(lines[0], 10) || 0;
  const atoms = lines.slice(2, 2 + nAtoms).map((line) => {
    const [symbol, ...rest] = line.trim().split(/\s+/);
    return atom(numberOf(symbol) || Number(symbol) || 0, rest.slice(0, 3).map(Number));
  });
  return { atoms, bonds: nearBonds(atoms) };
}

/** The structure of a molecule as the service returns it: with its bonds if they could be inferred. */
export function structureOf(molecule) {
  if (molecule.kind === "particles") return fromPositions(molecule.positions);
  return molecule.sdf ? fromSdf(molecule.sdf) : fromXyz(molecule.xyz ?? "");
}

/** A frame of the trajectory. Early features are noise and their largest channel is random, so the certainty of a type grows with time. */
export function structureOfFrame({ t, atomic_numbers, positions, certainty }) {
  if (!atomic_numbers) return fromPositions(positions);
  const settled = (certainty ?? atomic_numbers.map(() => 1)).map((lead) => Math.min(1, 1.5 * lead) * t ** 2);
  const structure = fromNumbers(atomic_numbers, positions, settled);
  // Distances in the noise have no meaning: a bond is drawn when both atoms have a certain type.
  structure.bonds = structure.bonds.filter(([i, j]) => isDecided(structure.atoms[i]) && isDecided(structure.atoms[j]));
  return structure;
}

/** True for an atom whose type no longer changes. */
export const isDecided = ({ certainty }) => certainty > 0.5;

/** A formula in Hill order from atomic numbers. */
export function formulaOf(atomicNumbers) {
  const counts = new Map();
  for (const z of atomicNumbers) counts.set(elementOf(z).symbol, (counts.get(elementOf(z).symbol) ?? 0) + 1);
  const rank = (symbol) => (symbol === "C" ? "0" : symbol === "H" && counts.has("C") ? "1" : symbol);
  const symbols = [...counts.keys()].sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  return symbols.map((symbol) => symbol + (counts.get(symbol) > 1 ? counts.get(symbol) : "")).join("");
}

// The elements of QM9, and one for particles: symbols, colours for the light and the dark theme, and covalent radii (Cordero et al. 2008) and van der Waals radii (Bondi 1964; H of Rowland and Taylor 1996), angstrom.

const TABLE = [
  { symbol: "H", z: 1, radius: 0.31, vdw: 1.1, light: "#ccd3db", dark: "#eef2f6" },
  { symbol: "C", z: 6, radius: 0.76, vdw: 1.7, light: "#69727e", dark: "#98a3b0" },
  { symbol: "N", z: 7, radius: 0.71, vdw: 1.55, light: "#2f6fed", dark: "#5b92ff" },
  { symbol: "O", z: 8, radius: 0.66, vdw: 1.52, light: "#dc3d36", dark: "#ff5d52" },
  { symbol: "F", z: 9, radius: 0.57, vdw: 1.47, light: "#2f9e58", dark: "#4fd07f" },
  { symbol: "Ar", z: 18, radius: 0.96, vdw: 1.88, light: "#1f8f99", dark: "#45c3cd" }, // stands for a particle of a system without elements
];

const OTHER = { symbol: "X", z: 0, radius: 0.8, vdw: 1.7, light: "#a855c7", dark: "#c983e6" };

const byZ = new Map(TABLE.map((element) => [element.z, element]));
const bySymbol = new Map(TABLE.map((element) => [element.symbol, element]));

export const elementOf = (z) => byZ.get(z) ?? OTHER;
export const numberOf = (symbol) => bySymbol.get(symbol)?.z ?? 0;

/** The grey of an atom before its type is decided. */
export const UNDECIDED = { light: "#cfd4da", dark: "#4a525d" };

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** The colour between two, at share 0 to 1. */
export function mix(from, to, share) {
  const target = channels(to);
  const mixed = channels(from).map((value, i) => Math.round(value + (target[i] - value) * share));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** The colour of an atom with the given `certainty` (0 to 1) of its type. */
export function colourOf(z, certainty = 1) {
  const ground = theme();
  return certainty >= 1 ? elementOf(z)[ground] : mix(UNDECIDED[ground], elementOf(z)[ground], Math.max(0, certainty));
}

// What the service says about itself, asked once and kept.
import { get } from "./api.js";

const DEFAULTS = { max_molecules: 64, max_atoms: 29, max_frames: 64, max_draws: 16 };
let asked = null;
let cards = null;

/** The limits in force; sensible ones where the service does not say. */
export function limits() {
  asked ??= get("/limits").then(
    (found) => ({ ...DEFAULTS, ...found }),
    () => DEFAULTS,
  );
  return asked;
}

/** The cards of the loaded models, the first of which answers where none is named; asked again where that failed. */
export function models() {
  cards ??= get("/models").then(({ models }) => models);
  cards.catch(() => (cards = null));
  return cards;
}

/** {ready, ...} whatever the answer's status: not being ready is an answer too. */
export async function health() {
  try {
    return { ready: true, ...(await get("/health/ready")) };
  } catch (problem) {
    return { ready: false, reason: problem.message };
  }
}

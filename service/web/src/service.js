// Limits, models and health of the service; limits and models are requested once.
import { get } from "./api.js";

const DEFAULTS = { max_molecules: 64, max_atoms: 29, max_frames: 64, max_draws: 16 };
let asked = null;
let cards = null;

/** The limits in force; defaults if the request fails. */
export function limits() {
  asked ??= get("/limits").then(
    (found) => ({ ...DEFAULTS, ...found }),
    () => DEFAULTS,
  );
  return asked;
}

/** The cards of the loaded models, the first of which is the default; requested again after a failure. */
export function models() {
  cards ??= get("/models").then(({ models }) => models);
  cards.catch(() => (cards = null));
  return cards;
}

/** {ready, ...} for every status of the answer. */
export async function health() {
  try {
    return { ready: true, ...(await get("/health/ready")) };
  } catch (problem) {
    return { ready: false, reason: problem.message };
  }
}

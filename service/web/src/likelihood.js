// Likelihoods of molecules that the page has; each is shown when it is received.
import { events } from "./api.js";

/** The exact divergence needs about a hundred evaluations at every node: seconds per molecule on a CPU. The error of an estimate is far larger than the solver's error at `draft`. */
export const ESTIMATE = { divergence: "hutchinson", tolerance: "draft" };
export const EXACT = { divergence: "exact" };

/** Yields [molecule, score] when each is finished; molecules that cannot be scored are left out. `told` is called with the progress. */
export async function* scores(molecules, options, signal, told = () => {}) {
  const structures = molecules.map(({ xyz }) => ({ format: "xyz", data: xyz }));
  for await (const event of events("/likelihood", { structures, ...options }, signal)) {
    if (event.event === "progress") told(event);
    if (event.event === "score" && !event.score.error) yield [molecules[event.score.index], event.score];
  }
}

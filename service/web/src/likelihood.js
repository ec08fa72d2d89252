// Likelihoods of molecules that the page already has: shown when they come, never waited for.
import { events } from "./api.js";

/** An exact divergence asks the network a hundred times at every node: seconds for a molecule on a CPU. An estimate has an error bar of its own, far above what a draft's solver adds. */
export const ESTIMATE = { divergence: "hutchinson", probes: 4, tolerance: "draft" };
export const EXACT = { divergence: "exact" };

/** [molecule, score] as the service finishes them; what cannot be scored is left out. `told` hears of the progress. */
export async function* scores(molecules, options, signal, told = () => {}) {
  const structures = molecules.map(({ xyz }) => ({ format: "xyz", data: xyz }));
  for await (const event of events("/likelihood", { structures, ...options }, signal)) {
    if (event.event === "progress") told(event);
    if (event.event === "score" && !event.score.error) yield [molecules[event.score.index], event.score];
  }
}

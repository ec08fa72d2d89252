/** The fields of a request that say how molecules are drawn; none where a form leaves them as they are. */
export const samplerOf = ({ temperature, refinements }) => ({
  ...(temperature.value === "" || Number(temperature.value) === 1 ? {} : { temperature: Number(temperature.value) }),
  ...(refinements.value === "" ? {} : { refinements: Number(refinements.value) }),
});

/** The same fields of a request, for a link. */
export const samplerIn = ({ temperature, refinements }) => ({
  ...(temperature !== undefined && { temperature }),
  ...(refinements !== undefined && { refinements }),
});

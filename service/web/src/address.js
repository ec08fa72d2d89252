// The address of the page after "#": the name of a view and the parameters that reproduce it.

/** The names of the views, which are those of their sections; the first one is shown where the address names none. */
export const NAMES = [...document.querySelectorAll("main > section")].map(({ id }) => id);

let shown = null; // the address whose view is shown

const nameIn = (hash) => {
  const [name] = hash.slice(1).split("?");
  return NAMES.includes(name) ? name : NAMES[0];
};

/** Returns the name of the view to show and the parameters of the address. */
export function arrived() {
  shown = location.hash;
  return { name: nameIn(shown), parameters: new URLSearchParams(shown.split("?")[1] ?? "") };
}

/** Replaces the address by a link to the view that it names. An address that is not shown yet stays: its `hashchange` event is still to come. */
export function replaceAddress(link) {
  if (location.hash !== shown || nameIn(link) !== nameIn(shown)) return;
  history.replaceState(null, "", link);
  shown = location.hash;
}

/** Adds the parameters of a link to the address of its view, if it has none. */
export function completeAddress(link) {
  if (link && !location.hash.includes("?")) replaceAddress(link);
}

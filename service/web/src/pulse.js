// The health of the service, requested every few seconds, for the light in the header and other listeners.
import { byId } from "./dom.js";
import { health } from "./service.js";

const POLL_MS = 3000;
const KEPT = 60; // three minutes of load

/** States of the service, the latest last: {ready, queue, ...}. */
export const history = [];
const listeners = new Set();

export const onPulse = (listener) => listeners.add(listener);

async function poll() {
  if (document.hidden) return;
  const state = await health();
  history.push(state);
  if (history.length > KEPT) history.shift();
  const light = byId("status");
  light.dataset.ready = state.ready;
  light.title = state.reason ?? "";
  byId("status-word").textContent = state.ready ? "ready" : "not ready";
  listeners.forEach((listener) => listener(state));
}

export function beginPulse() {
  setInterval(poll, POLL_MS);
  poll();
}

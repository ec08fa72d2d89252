// Functions that create elements. Text is always inserted as text: no part of a molecule or an upload becomes markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: h("button", {type: "button", onclick: go}, "Go"). */
export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

/** An SVG element. */
export const svg = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

export const byId = (id) => document.getElementById(id);

/** A button of type button. */
export const button = (label, onclick, properties = {}) => h("button", { type: "button", onclick, ...properties }, label);

/** Puts elements in order and moves only the misplaced ones, so that focus and pictures stay. */
export function arrange(parent, elements) {
  elements.forEach((element, i) => {
    if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null);
  });
}

const WIDE = matchMedia("(min-width: 40rem)");

/** Content that is folded away in a narrow window, and always open in a wide one. */
export function fold(summary, ...content) {
  const element = h("details", { class: "fold", open: WIDE.matches }, h("summary", {}, summary), content);
  WIDE.addEventListener("change", () => (element.open = WIDE.matches));
  return element;
}

/** Announces a sentence to screen readers without moving the focus. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Formats a number: 3 significant places below a thousand, a minus sign instead of a hyphen. */
export function number(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}

export const percent = (share) => (Number.isFinite(share) ? `${number(100 * share, 1)} %` : "–");

export function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** Downloads `text` (or a Blob) as a file. */
export function download(name, content, type = "text/plain") {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Copies text and shows this on the button for a moment. */
export async function copy(text, element) {
  const label = element.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages over plain http from another machine cannot use the clipboard API; the older command works there.
    const area = h("textarea", { class: "offscreen" }, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  element.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (element.textContent = label), 1500);
}

export const prefersStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

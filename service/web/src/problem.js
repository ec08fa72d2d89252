// A problem as text: what was found, where, and the line itself.
import { announce, h } from "./dom.js";

const PLACE = /line (\d+)(?:,? column (\d+))?/;

/** The line of the upload that a message names, with a mark under its column. The page has the text; the answer does not contain it. */
function excerpt(text, where) {
  const [, line, column] = PLACE.exec(where) ?? [];
  const found = text?.split(/\r?\n/)[line - 1];
  if (found === undefined) return null;
  const mark = column ? `\n${" ".repeat(column - 1)}^` : "";
  return h("pre", { class: "excerpt" }, `${found.slice(0, 200)}${column > 200 ? "" : mark}`);
}

/** Shows a problem inside `place`; `text` is the upload it is about. */
export function showProblem(place, problem, text = null) {
  const errors = problem.errors ?? [];
  const said = problem.message ?? problem.detail ?? "";
  const others = errors.filter(({ message }) => !said.includes(message));
  const where = [...errors.map(({ at, message }) => `${at} ${message}`), said].join(" ");
  place.replaceChildren(
    h(
      "div",
      { class: "problem", role: "alert" },
      h("p", {}, h("b", {}, problem.title ?? "Something is wrong"), ` ${said}`),
      others.length > 0 && h("ul", {}, others.map(({ at, message }) => h("li", {}, at && h("code", {}, at), ` ${message}`))),
      excerpt(text, where),
    ),
  );
  announce("");
}

// The running request of a section with its meter, its note and its cancel button. A new request ends the previous one.
import { announce, byId, duration } from "./dom.js";
import { Problem } from "./api.js";
import { showProblem } from "./problem.js";

const SURE = 0.05; // of the work: before that, the time until now says nothing about the time left

export class Job {
  /** section: prefix of the ids `<section>-cancel`, `-meter`, `-note`, `-problem` and `-form`. */
  constructor(section) {
    for (const part of ["cancel", "meter", "note", "problem", "form"]) this[part] = byId(`${section}-${part}`);
    this.cancel.addEventListener("click", () => this.abort?.abort());
  }

  /** Runs `work(signal)` to its end: "done", "cancelled", "failed", or "replaced" by a newer one. */
  async run(work) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    this.problem.replaceChildren();
    this.busy(true);
    const error = await work(abort.signal).then(() => null, (thrown) => thrown);
    if (this.abort !== abort) return "replaced";
    this.busy(false);
    return error ? this.explain(error) : "done";
  }

  explain(error) {
    if (error.name === "AbortError") return "cancelled";
    if (!(error instanceof Problem)) throw error;
    showProblem(this.problem, error);
    this.words("");
    return "failed";
  }

  busy(value) {
    this.cancel.hidden = !value;
    this.meter.hidden = !value;
    this.form?.setAttribute("aria-busy", value);
    if (value) this.restart("Waiting for the service");
  }

  /** Restarts the meter for a request or for its next part. */
  restart(text) {
    this.started = performance.now();
    this.meter.removeAttribute("value");
    this.words(text);
  }

  /** Shows the progress. done: finished items; under: sum of the shares of running ones; noun: name of an item; then: what follows; the event of the service. */
  progress({ done, under = 0, total, noun, then = "" }, { queue, eta_s, engine } = {}) {
    if (!done && !under) return engine ? this.words(`The first answer takes a moment longer: ${engine}`) : this.wait(queue, eta_s, total);
    this.meter.max = total;
    this.meter.value = done + under;
    const left = this.left(done + under, total);
    return this.words(`${done} of ${total} ${noun}${left === null ? "" : `, about ${duration(left)} left`}${then}`);
  }

  /** Shows the number of molecules ahead in the queue, without those of this request. */
  wait(queue, seconds, total) {
    const ahead = Math.max(0, (queue?.ahead ?? 0) - total);
    if (ahead) this.words(`In the queue, ${ahead} ${ahead === 1 ? "molecule" : "molecules"} ahead${seconds ? `, about ${duration(seconds)}` : ""}`);
  }

  left(done, total) {
    const elapsed = (performance.now() - this.started) / 1000;
    return done > SURE * total && done < total ? (elapsed * (total - done)) / done : null;
  }

  words(text) {
    this.note.textContent = text;
  }

  /** Shows a text and announces it to screen readers. */
  say(text) {
    this.words(text);
    announce(text);
  }
}

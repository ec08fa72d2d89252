// Generate: ask for molecules, watch them arrive, keep what is worth keeping.
import { announce, byId, copy, duration, number } from "./dom.js";
import { Problem, events } from "./api.js";
import { Gallery } from "./gallery.js";
import { asCurl, asPython } from "./snippet.js";
import { showProblem } from "./problem.js";
import { limits } from "./service.js";

const FRAMES = 24; // enough to replay a card smoothly: the page interpolates between them
const LIVE_LIMIT = 32; // with more molecules on the way, their pictures come when they are done

export class Generate {
  /** ways: {open(molecule), watch(molecule)} */
  constructor(ways) {
    this.form = byId("generate-form");
    this.gallery = new Gallery(ways, () => this.remember());
    byId("generate-results").append(this.gallery.element);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.run()));
    byId("generate-cancel").addEventListener("click", () => this.abort?.abort());
    byId("copy-curl").addEventListener("click", ({ target }) => copy(asCurl("/sample", this.shown), target));
    byId("copy-python").addEventListener("click", ({ target }) => copy(asPython("/sample", this.shown), target));
    byId("copy-link").addEventListener("click", ({ target }) => copy(location.href, target));
    limits().then(({ max_molecules }) => (this.form.elements.count.max = max_molecules));
  }

  /** The request the form describes. */
  get request() {
    const { count, atoms, seed, tolerance, only, nll } = this.form.elements;
    const sizes = atoms.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    const n_atoms = sizes.length === 0 ? null : sizes.length === 1 ? sizes[0] : sizes;
    return {
      n_molecules: sizes.length > 1 ? sizes.length : Number(count.value),
      n_atoms,
      seed: seed.value === "" ? null : Number(seed.value),
      tolerance: tolerance.value,
      only: only.value,
      with_nll: nll.checked,
    };
  }

  /** Takes a link's parameters into the form; runs at once where they name a seed. */
  restore(parameters) {
    const { elements } = this.form;
    for (const name of ["count", "atoms", "seed", "tolerance", "only"]) {
      if (parameters.has(name)) elements[name].value = parameters.get(name);
    }
    if (parameters.has("nll")) elements.nll.checked = parameters.get("nll") === "1";
    this.gallery.arrange(parameters.get("sort") ?? "index", parameters.get("show") ?? "all");
    if (parameters.has("seed")) this.run();
  }

  /** Puts what is shown into the address, so that the address reproduces it. */
  remember() {
    if (!this.shown) return;
    const { n_molecules, n_atoms, seed, tolerance, only, with_nll } = this.shown;
    const state = { count: n_molecules, seed, tolerance };
    if (n_atoms !== null) state.atoms = n_atoms;
    if (only !== "any") state.only = only;
    if (with_nll) state.nll = 1;
    if (this.gallery.sort !== "index") state.sort = this.gallery.sort;
    if (this.gallery.filter !== "all") state.show = this.gallery.filter;
    history.replaceState(null, "", `#generate?${new URLSearchParams(state)}`);
  }

  async run() {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const request = this.request;
    this.begin(request);
    try {
      const frames = this.awaited && request.n_molecules <= LIVE_LIMIT ? FRAMES : 0;
      for await (const event of events("/sample", { ...request, frames }, abort.signal)) {
        if (abort.signal.aborted) return;
        this.take(event);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
      else if (this.abort === abort) this.say(`Cancelled: ${this.gallery.molecules.length} of ${request.n_molecules} molecules were finished.`);
    }
    if (this.abort === abort) this.end();
  }

  /** Whether every molecule under way will stay; with `only`, attempts that fail leave again and get no card. */
  get awaited() {
    return this.asked.only === "any";
  }

  begin(request) {
    this.shown = null;
    this.started = performance.now();
    this.moving = new Map();
    this.gallery.clear();
    byId("generate-empty").hidden = true;
    byId("generate-problem").replaceChildren();
    byId("generate-share").hidden = true;
    this.busy(true);
    this.asked = request;
    this.meter(0, request.n_molecules);
    this.note("Waiting for the service");
    announce(`Generating ${request.n_molecules} molecules`);
  }

  take(event) {
    if (event.event === "start") this.shown = { ...this.asked, seed: event.seed };
    else if (event.event === "progress") this.progress(event);
    else if (event.event === "frame") this.gallery.card(event.index).frame(event.frame);
    else if (event.event === "molecule") this.arrive(event.molecule);
    else if (event.event === "done") this.finish(event);
  }

  progress({ queue, eta_s, running = [] }) {
    if (this.awaited) for (const each of running) this.gallery.card(each.index).progress(each);
    for (const { index, t } of running) this.moving.set(index, t);
    const done = this.gallery.molecules.length;
    const under = [...this.moving.values()].reduce((sum, t) => sum + t, 0);
    this.meter(done + under, this.asked.n_molecules);
    if (queue?.ahead) return this.note(`${queue.ahead} molecules of others are ahead in the queue${eta_s ? `, about ${duration(eta_s)}` : ""}`);
    const left = eta_s ?? this.estimate(done + under);
    return this.note(`${done} of ${this.asked.n_molecules} done${left ? `, ${duration(left)} left` : ""}`);
  }

  estimate(done) {
    const elapsed = (performance.now() - this.started) / 1000;
    return done > 0.2 ? (elapsed * (this.asked.n_molecules - done)) / done : null;
  }

  arrive(molecule) {
    this.moving.delete(molecule.index);
    this.gallery.add(molecule);
    const [done, total] = [this.gallery.molecules.length, this.asked.n_molecules];
    this.meter(done, total);
    this.note(`${done} of ${total} done`);
    if (done < total && done % Math.ceil(total / 4) === 0) announce(`${done} of ${total} molecules`);
  }

  finish({ seed, attempts, failed }) {
    const { molecules } = this.gallery;
    for (const { index, reason, detail } of failed) this.gallery.card(index).fail(`${reason}: ${detail}`);
    this.shown ??= { ...this.asked, seed };
    const seconds = (performance.now() - this.started) / 1000;
    const valid = molecules.filter((molecule) => molecule.valid).length;
    const extra = this.asked.only === "any" ? "" : `, ${attempts.tried} tried`;
    this.say(`${molecules.length} molecules in ${number(seconds)} s, ${valid} valid${extra} · seed ${seed}`);
    byId("generate-share").hidden = false;
    this.remember();
  }

  fail(error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(byId("generate-problem"), error);
    this.note("");
  }

  end() {
    this.gallery.prune();
    this.busy(false);
    byId("generate-empty").hidden = this.gallery.molecules.length > 0 || byId("generate-problem").hasChildNodes();
  }

  busy(value) {
    byId("generate-cancel").hidden = !value;
    byId("generate-meter").hidden = !value;
    this.form.setAttribute("aria-busy", value);
  }

  meter(done, total) {
    const meter = byId("generate-meter");
    meter.max = total;
    meter.value = done;
  }

  note(text) {
    byId("generate-note").textContent = text;
  }

  say(text) {
    this.note(text);
    announce(text);
  }
}

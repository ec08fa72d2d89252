// Jobs: batches of up to a million molecules that the service computes in the background, with their progress and their files.
import { get, post, Problem, remove, save } from "./api.js";
import { announce, button, byId, duration, h, number } from "./dom.js";
import { Chooser } from "./chooser.js";
import { showProblem } from "./problem.js";
import { samplerOf } from "./sampler.js";
import { sizeOf } from "./size.js";

const POLL_MS = 2000;
const FILES = { sdf: "chemical/x-mdl-sdfile", xyz: "chemical/x-xyz", json: "application/json" };
const SCORES = { json: FILES.json };

const time = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** The progress of a job in one sentence. */
function progress({ state, done, failed, n_molecules, rate, time_left_s, detail, expires }) {
  const counts = `${done.toLocaleString("en")} of ${n_molecules.toLocaleString("en")}`;
  const parts = [counts, failed && `${failed} failed`, rate && `${number(rate, rate < 10 ? 1 : 0)} per second`];
  if (time_left_s !== null) parts.push(`about ${duration(time_left_s)} left`);
  if (detail) parts.push(detail);
  if (expires) parts.push(`kept until ${time(expires)}`);
  return `${state}: ${parts.filter(Boolean).join(", ")}`;
}

export class Jobs {
  constructor() {
    this.form = byId("jobs-form");
    this.chooser = new Chooser(this.form);
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.start()));
    this.rows = new Map();
  }

  /** Called when the section is shown. */
  enter() {
    clearTimeout(this.timer);
    return this.refresh();
  }

  get request() {
    const { count, atoms, seed, tolerance, only } = this.form.elements;
    const { name, particles } = this.chooser;
    const asked = { n_molecules: Number(count.value), seed: seed.value === "" ? null : Number(seed.value), tolerance: tolerance.value };
    if (particles) return { ...asked, model: name };
    return { ...asked, ...samplerOf(this.form.elements), ...(name && { model: name }), ...sizeOf(atoms.value), only: only.value };
  }

  async start() {
    await this.doing(async () => {
      const { time_left_s } = await post("/jobs", { sample: this.request });
      announce(`The job was added${time_left_s ? `; about ${duration(time_left_s)}` : ""}.`);
    });
  }

  /** Does something with a job, and shows the problem if it is refused. */
  async doing(work) {
    byId("jobs-problem").replaceChildren();
    try {
      await work();
      await this.refresh();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      showProblem(byId("jobs-problem"), problem);
    }
  }

  /** Requests the jobs again every two seconds while the section is shown and a job is not ended. */
  async refresh() {
    clearTimeout(this.timer);
    try {
      this.show((await get("/jobs")).jobs);
    } catch (problem) {
      showProblem(byId("jobs-problem"), problem);
    }
    const open = [...this.rows.values()].some(({ ended }) => !ended);
    if (open && !byId("jobs").hidden) this.timer = setTimeout(() => this.refresh(), POLL_MS);
  }

  show(jobs) {
    const known = this.rows;
    this.rows = new Map(jobs.map((job) => [job.id, known.get(job.id) ?? this.row(job)]));
    const list = byId("jobs-list");
    if (jobs.some(({ id }, i) => list.children[i]?.dataset.id !== id) || list.children.length !== jobs.length)
      list.replaceChildren(...[...this.rows.values()].map(({ element }) => element));
    for (const job of jobs) this.rows.get(job.id).tell(job);
    byId("jobs-empty").hidden = jobs.length > 0;
  }

  row(first) {
    const meter = h("progress", { max: first.n_molecules, value: 0, "aria-label": `Progress of the job ${first.id.slice(0, 6)}` });
    const words = h("p", { class: "quiet" });
    const end = button("", () => this.doing(() => remove(`/jobs/${first.id}`)), { class: "small" });
    const files = Object.entries(first.kind === "likelihood" ? SCORES : FILES).map(([ending, accept]) =>
      button(ending.toUpperCase(), () => this.doing(() => save(`/jobs/${first.id}/results`, accept, `job-${first.id.slice(0, 6)}.${ending}`)), { class: "small", "aria-label": `Download ${ending.toUpperCase()}` }),
    );
    const head = h("p", { class: "headline" }, h("span", {}, `${first.n_molecules.toLocaleString("en")} × ${first.kind}, seed ${first.seed}`), h("span", { class: "quiet" }, time(first.created)));
    const element = h("li", { class: "job", "data-id": first.id }, head, meter, words, h("p", { class: "row" }, files, end));
    const row = { element, ended: false };
    row.tell = (job) => {
      row.ended = job.ended !== null;
      meter.value = job.done;
      words.textContent = progress(job);
      end.textContent = row.ended ? "Remove" : "Cancel";
      for (const file of files) file.disabled = !job.done;
    };
    return row;
  }
}

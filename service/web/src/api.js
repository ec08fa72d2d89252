// Requests to the service: JSON answers, streams of lines, and problems (RFC 9457) as errors.
import { download } from "./dom.js";

/** A refused request, with the values that the service found and expected. */
export class Problem extends Error {
  constructor(body, status = 0, retryAfter = null) {
    super(body.detail || body.title || `The service answered ${status}.`);
    this.title = body.title || "Something went wrong";
    this.errors = body.errors || [];
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE = { title: "The service cannot be reached", detail: "No answer came. Is it still running?" };
const BROKEN = { title: "The connection ended early", detail: "The answer stopped before it was complete. Try again." };

async function refusal(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const body = await response.json().catch(() => ({ title: response.statusText }));
  if (response.status === 401) body.detail = `${body.detail ?? ""} Enter the key of this service under Model.`;
  return new Problem(body, response.status, retryAfter);
}

/** The address of a path of the service, which may be below a prefix of a proxy. */
export const address = (path) => new URL(`.${path}`, document.baseURI).href;

async function request(path, options) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(UNREACHABLE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

const PATIENCE_S = 15;

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });

/** Sends a request that a full queue refuses again at the time that the service names, for a quarter of a minute in all. */
async function persist(path, options) {
  for (let left = PATIENCE_S; ; ) {
    try {
      return await request(path, options);
    } catch (problem) {
      const wait = problem.retryAfter;
      if (!wait || wait > left) throw problem;
      left -= wait;
      await pause(wait, options.signal);
    }
  }
}

/** The API key of this tab, for services that require one. */
export const key = {
  get: () => sessionStorage.getItem("api-key") ?? "",
  set: (value) => sessionStorage.setItem("api-key", value),
};

const authorized = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

const posting = (body, accept, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json", Accept: accept, ...authorized() },
  body: JSON.stringify(body),
  signal,
});

export const get = async (path, signal) => (await request(path, { headers: authorized(), signal })).json();

export const post = async (path, body) => (await persist(path, posting(body, "application/json"))).json();

export const remove = async (path) => (await request(path, { method: "DELETE", headers: authorized() })).json();

/** The address of an image of the service. An img element would not send the key. */
export async function image(path) {
  const answer = await request(path, { headers: authorized() });
  return URL.createObjectURL(await answer.blob());
}

/** Downloads an answer in a media type as a file. */
export async function save(path, accept, name) {
  const answer = await request(path, { headers: { Accept: accept, ...authorized() } });
  download(name, await answer.blob());
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  yield rest;
}

/** Yields the events of a streamed answer, one object per line. Ends after "done", throws a Problem on "error" or a broken stream. */
export async function* events(path, body, signal) {
  const response = await persist(path, posting(body, "application/x-ndjson", signal));
  try {
    for await (const line of lines(response.body)) {
      if (!line.trim()) continue;
      const event = JSON.parse(line);
      if (event.event === "error") throw new Problem(event.problem ?? event, event.problem?.status);
      yield event;
      if (event.event === "done") return;
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem(BROKEN);
  }
  throw new Problem(BROKEN);
}

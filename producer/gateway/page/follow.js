// Brings each job to its end: sends it, follows its events or asks again and again, and outlives a gateway's restart.
//
// A browser opens six connections to one host and every event stream holds one, so only the oldest jobs of a visible
// page are streamed; the others are asked for. A hidden page streams nothing.

import { Problem, events, state, submit } from "./api.js";
import { pause } from "./dom.js";
import { isActive } from "./jobs.js";

const STREAMS_MAX = 2;
const POLL_MS = 2000;
const POLL_HIDDEN_MS = 10000;
const POLLS_AT_ONCE = 10;
const STREAM_AGAIN_MS = 250;
const BACKOFF_MS_MIN = 1000;
const BACKOFF_MS_MAX = 15000;

export class Follower {
  #jobs;
  #pictures = new Map();
  #followed = new Map();
  #streams = new Map();
  #wake = new EventTarget();

  constructor(jobs) {
    this.#jobs = jobs;
    jobs.addEventListener("reset", () => this.#restart());
    jobs.addEventListener("add", ({ detail }) => this.#begin(detail.job));
    jobs.addEventListener("remove", ({ detail }) => this.#end(detail.job.id));
    document.addEventListener("visibilitychange", () => this.#turn());
    addEventListener("online", () => this.wake());
  }

  // Sends a job. Throws a `Problem` where it is refused; where the gateway is away the job waits for it.
  async send(job, picture = null) {
    if (picture) this.#pictures.set(job.id, picture);
    const answer = await this.#submit(job).catch((problem) => {
      if (!(problem instanceof Problem) || !problem.passing || problem.status === 429) {
        this.#pictures.delete(job.id);
        throw problem;
      }
      return { problem };
    });
    this.#jobs.add({ ...job, ...answer });
  }

  // Whoever waits asks again now.
  wake() {
    this.#wake.dispatchEvent(new Event("wake"));
  }

  async #submit(job) {
    const answer = await submit(job.request, this.#pictures.get(job.id) ?? null);
    this.#pictures.delete(job.id);
    return { status: isActive({ status: answer?.status }) ? answer.status : "queued", problem: null };
  }

  #restart() {
    for (const id of [...this.#followed.keys()]) this.#end(id);
    for (const job of this.#jobs.all) this.#begin(job);
  }

  #begin(job) {
    if (!isActive(job) || this.#followed.has(job.id)) return;
    const ending = new AbortController();
    this.#followed.set(job.id, ending);
    this.#follow(job.id, ending.signal).finally(() => {
      if (this.#followed.get(job.id) === ending) this.#followed.delete(job.id);
    });
  }

  #end(id) {
    this.#followed.get(id)?.abort();
    this.#followed.delete(id);
    this.#pictures.delete(id);
    this.wake();
  }

  #turn() {
    if (document.hidden) for (const ending of [...this.#streams.values()]) ending.abort();
    else this.wake();
  }

  async #follow(id, signal) {
    let failures = 0;
    while (!signal.aborted && isActive(this.#jobs.get(id) ?? {})) {
      let asked = 0;
      try {
        await this.#ask(id, signal);
        const heard = this.#mayStream(id) ? await this.#stream(id, signal) : null;
        if (heard === false && !document.hidden) failures += 1;
        else failures = 0;
        if (isActive(this.#jobs.get(id) ?? {})) await pause(heard === null ? this.#pollMs() : STREAM_AGAIN_MS, this.#wake);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        failures += 1;
        asked = (error.retryAfterS ?? 0) * 1000;
        this.#trouble(id, error);
      }
      if (failures) await pause(Math.max(asked, backoff(failures)), this.#wake);
    }
  }

  async #ask(id, signal) {
    const job = this.#jobs.get(id);
    if (job.status === "unsent" && (!job.upload || this.#pictures.has(id))) {
      this.#jobs.update(id, await this.#submit(job));
    }
    const told = await state(id);
    if (!signal.aborted) this.#apply(id, told);
  }

  #stream(id, signal) {
    const ending = new AbortController();
    signal.addEventListener("abort", () => ending.abort(), { once: true });
    this.#streams.set(id, ending);
    const heard = (kind, told) => {
      if (signal.aborted) return true;
      if (kind === "progress") this.#jobs.update(id, running(this.#jobs.get(id), told));
      else this.#apply(id, told);
      return kind === "completion" || !isActive(this.#jobs.get(id) ?? {});
    };
    return events(id, heard, ending.signal).finally(() => {
      this.#streams.delete(id);
      this.wake();
    });
  }

  // The oldest of those that are not streamed yet, while there is room.
  #mayStream(id) {
    if (document.hidden || this.#streams.size >= STREAMS_MAX || !isActive(this.#jobs.get(id) ?? {})) return false;
    const waiting = this.#jobs.all.filter((job) => isActive(job) && !this.#streams.has(job.id));
    return waiting.slice(-(STREAMS_MAX - this.#streams.size)).some((job) => job.id === id);
  }

  #pollMs() {
    if (document.hidden) return POLL_HIDDEN_MS;
    return POLL_MS * Math.max(1, Math.ceil(this.#followed.size / POLLS_AT_ONCE));
  }

  #apply(id, told) {
    const changes = { status: told.status, problem: null, ahead: told.ahead ?? null, etaAt: null };
    if (typeof told.eta_s === "number") changes.etaAt = Date.now() + told.eta_s * 1000;
    if (told.progress) Object.assign(changes, running(this.#jobs.get(id), told.progress));
    if (told.completion) Object.assign(changes, { completion: told.completion, status: told.completion.status, preview: null });
    // A picture that was sent with the request has a place in the bucket now, by which it can be used again.
    if (told.request?.pose && this.#jobs.get(id)?.upload) {
      changes.request = { ...this.#jobs.get(id).request, pose: told.request.pose };
    }
    this.#jobs.update(id, changes);
  }

  #trouble(id, problem) {
    const { detail, remedy } = problem;
    if (problem.passing || problem.status === 401) {
      this.#jobs.update(id, { problem: { detail, remedy } });
    } else if (problem.status === 404 && this.#jobs.get(id)?.status === "unsent") {
      const lost = { detail: "The request was not sent.", remedy: "Its picture is gone with the page: choose it and send again." };
      this.#jobs.update(id, { status: "failed", problem: lost });
    } else {
      this.#jobs.update(id, { status: "failed", problem: { detail, remedy } });
    }
  }
}

// What a progress event changes. The gateway foresees the end of what waits; of what runs its own pace says it better.
export function running(job, { steps_done: done, steps_total: total, preview }) {
  const now = Date.now();
  // Fewer steps than before: the worker died and another one paints the picture anew.
  const anew = !job?.begun || done < job.progress?.done;
  const begun = anew ? { at: now, done } : job.begun;
  const changes = { status: "running", problem: null, progress: { done, total }, begun };
  if (anew) changes.etaAt = null;
  if (done > begun.done) changes.etaAt = now + ((now - begun.at) / (done - begun.done)) * (total - done);
  if (preview) changes.preview = preview;
  return changes;
}

// Twice as long each time, up to a limit, and never the same for all pages that lost one gateway.
function backoff(failures) {
  return Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
}

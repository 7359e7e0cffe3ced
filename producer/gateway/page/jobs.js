// The jobs that this browser asked for: kept in local storage, bounded, one list for each tenant.
//
// A job: id, request, upload (name and kind of a picture sent with it, or null), sentAt, status, ahead, etaAt, progress,
// completion, problem (what is wrong right now: {detail, remedy}), cancelling.
// Only in memory: preview, and begun (when which step was seen first).

export const JOBS_MAX = 100;
const KEPT = ["id", "request", "upload", "sentAt", "status", "ahead", "etaAt", "progress", "completion", "problem", "cancelling"];
const SAVE_MS = 300;

// `unsent`: the gateway has not said yet that it has it.
const ACTIVE = new Set(["unsent", "queued", "running"]);

export const isActive = (job) => ACTIVE.has(job.status);

export class Jobs extends EventTarget {
  #jobs = new Map();
  #name = null;
  #saving = null;

  // Takes up what an earlier visit left.
  open(tenant) {
    this.#name = `darkroom.jobs.v1.${tenant}`;
    this.#jobs = new Map(read(this.#name).map((job) => [job.id, job]));
    this.dispatchEvent(new Event("reset"));
  }

  // Newest first.
  get all() {
    return [...this.#jobs.values()].sort((a, b) => b.sentAt - a.sentAt);
  }

  get(id) {
    return this.#jobs.get(id);
  }

  add(job) {
    this.#jobs.set(job.id, job);
    for (const old of this.all.slice(JOBS_MAX)) this.remove(old.id);
    this.#save();
    this.#tell("add", job);
  }

  // Nothing happens where the job was removed meanwhile.
  update(id, changes) {
    const job = this.#jobs.get(id);
    if (!job) return;
    const before = job.status;
    Object.assign(job, changes);
    this.#save();
    this.#tell("update", job, before);
  }

  remove(id) {
    const job = this.#jobs.get(id);
    if (!this.#jobs.delete(id)) return;
    this.#save();
    this.#tell("remove", job);
  }

  // Writes at once what would be written in a moment.
  flush() {
    if (this.#saving !== null) this.#write();
  }

  #tell(kind, job, before = null) {
    this.dispatchEvent(new CustomEvent(kind, { detail: { job, before } }));
  }

  #save() {
    this.#saving ??= setTimeout(() => this.#write(), SAVE_MS);
  }

  #write() {
    clearTimeout(this.#saving);
    this.#saving = null;
    const kept = this.all.map((job) => Object.fromEntries(KEPT.map((name) => [name, job[name] ?? null])));
    // A full store keeps the newer half: an old picture is less of a loss than one that is on its way.
    for (let number = kept.length; number >= 1; number = Math.floor(number / 2)) {
      if (write(this.#name, kept.slice(0, number))) return;
    }
    write(this.#name, []);
  }
}

// What is stored under a name, or [] where it is missing, unreadable or not a list of jobs.
function read(name) {
  try {
    const stored = JSON.parse(localStorage.getItem(name) ?? "[]");
    return stored.filter((job) => typeof job?.id === "string" && job.request && job.status).slice(0, JOBS_MAX);
  } catch {
    return [];
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

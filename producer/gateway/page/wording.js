// Numbers and states in words.

export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 60000) return `${Math.round(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

const STATES = {
  unsent: "Sending",
  queued: "Waiting",
  running: "Rendering",
  succeeded: "Done",
  failed: "Failed",
  expired: "Expired",
  cancelled: "Cancelled",
  erased: "Erased"
};

export const stateName = (job) => (job.cancelling && ["queued", "running"].includes(job.status) ? "Cancelling" : STATES[job.status]);

const LATE_MS = 10000;

// What is ahead of a job, how far it is, and when it should be done. `workers`: how many there are, null if unknown.
export function whereabouts(job, now, workers = null) {
  if (job.status === "unsent") return "on its way to the gateway";
  const parts = [];
  if (job.status === "queued") parts.push(ahead(job.ahead));
  if (job.status === "running" && job.progress) parts.push(`step ${job.progress.done} of ${job.progress.total}`);
  if (workers === 0) parts.push("no worker is running");
  else if (job.etaAt !== null && job.etaAt !== undefined) parts.push(due(job.etaAt - now));
  return parts.filter(Boolean).join(" · ");
}

function due(left) {
  if (left > 1000) return `done in about ${duration(left)}`;
  return left > -LATE_MS ? "done any moment" : "later than expected";
}

// How the fleet is doing, in a few words; "" where its figures say it all.
export function fleetState({ workers, lag_records: waiting, eta_s: eta, last_work_s: last }) {
  if (workers === 0) return waiting ? `no worker is running, ${waiting} waiting` : "no worker is running";
  const parts = typeof workers === "number" ? [`${workers} worker${workers === 1 ? "" : "s"}`] : [];
  if (waiting && typeof eta === "number") parts.push(`clear in about ${duration(eta * 1000)}`);
  if (waiting && typeof last === "number" && last * 1000 > LATE_MS) parts.push(`last step ${duration(last * 1000)} ago`);
  return parts.join(" · ");
}

function ahead(count) {
  if (count === null || count === undefined) return "in the queue";
  if (count === 0) return "next in line";
  return `${count} ahead of it`;
}

// Where a finished job's time went.
export function timings(completion) {
  const { queued, prepare, waited, denoise, decode, store, total } = completion.timings_ms ?? {};
  const render = [prepare, denoise, decode].filter((ms) => ms !== null && ms !== undefined);
  return {
    queued: sum([queued, waited]),
    render: sum(render),
    store: store ?? null,
    total: total ?? null
  };
}

function sum(values) {
  const known = values.filter((ms) => ms !== null && ms !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

export function batchSeen(completion) {
  const batch = completion.batch;
  if (!batch) return "–";
  return batch.rows_min === batch.rows_max ? `${batch.rows_max}` : `${batch.rows_min}–${batch.rows_max}`;
}

// How much of the prompt the model read; null where the worker did not count.
export function promptRead(completion) {
  const read = completion.prompt;
  if (!read) return null;
  const tokens = `${read.tokens} ${read.tokens === 1 ? "token" : "tokens"}`;
  return read.chunks === 1 ? tokens : `${tokens} in ${read.chunks} chunks`;
}

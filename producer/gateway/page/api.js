// The gateway's HTTP, and what it says when it refuses (RFC 9457 problem details).

const ANSWER_MS_MAX = 20000;

// What went wrong: `detail` says what happened, `remedy` what to do. `status` is 0 where no answer came.
export class Problem extends Error {
  constructor({ status = 0, code = "unreachable", title = "", detail = "", remedy = "", retry_after_s = null, needs_size = false }) {
    super(detail || title);
    Object.assign(this, { status, code, title, detail: detail || title, remedy, retryAfterS: retry_after_s, needsSize: needs_size });
  }

  // Whether the same call may succeed later, unchanged.
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const UNREACHABLE = {
  title: "No answer",
  detail: "The gateway cannot be reached.",
  remedy: "Check the connection; it is tried again by itself."
};

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      credentials: "same-origin",
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
      ...options,
      headers: { accept: "application/json", ...options.headers }
    });
  } catch {
    throw new Problem(UNREACHABLE);
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json().catch(() => null);
  throw await problemOf(answer);
}

async function problemOf(answer) {
  const told = await answer.json().catch(() => ({}));
  const after = Number(answer.headers.get("retry-after"));
  const fallback = { title: answer.statusText, detail: `The gateway answered with ${answer.status}.`, code: "refused" };
  const problem = new Problem({ ...fallback, ...told, status: answer.status, retry_after_s: after > 0 ? after : null });
  if (answer.status === 401) dispatchEvent(new CustomEvent("signed-out", { detail: problem }));
  return problem;
}

const json = (method, body) => ({ method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const job = (id) => `v1/generations/${encodeURIComponent(id)}`;

// `picture` is {file, kind}, sent beside the request: kind "pose" for a skeleton, "photo" for a photo.
export function submit(request, picture = null) {
  if (!picture) return call("v1/generations", json("POST", request));
  const form = new FormData();
  form.set("request", JSON.stringify(request));
  form.set(picture.kind, picture.file, picture.file.name);
  return call("v1/generations", { method: "POST", body: form });
}

// What a file of keypoints says, whoever wrote it: {pose, notes}. `size` is "WIDTHxHEIGHT" of the picture that its
// coordinates are pixels of, where the file does not say it.
export const readPose = (file, size = null) => call(size ? `v1/poses?size=${size}` : "v1/poses", { method: "POST", headers: { "content-type": "application/json" }, body: file });

export const state = (id) => call(job(id));
// A picture's address as this page reaches it. The `url` of an answer is for programs: a path from the root, or below
// the configured public address, and neither need be where this page was loaded from.
export const imageAddress = (id, index) => `${job(id)}/images/${index}`;
export const cancel = (id) => call(job(id), { method: "DELETE" });
// What a request's `recipe` may name: [{name, description, fields}].
export const recipes = async () => (await call("v1/recipes")).recipes;
export const fleet = () => call("v1/fleet");
export const signIn = (key) => call("session", json("POST", { key }));
export const signOut = () => call("session", { method: "DELETE" });

// Who is signed in; null where this gateway has no access control.
export async function session() {
  try {
    return await call("session");
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

// Follows a job's events until the stream ends, `signal` aborts or `heard` says that it is enough (returns true).
// Resolves to whether anything was heard at all, so that a stream that never works can be told from one that ended.
export function events(id, heard, signal) {
  return new Promise((resolve) => {
    const source = new EventSource(`${job(id)}/events`);
    let any = false;
    const end = () => {
      source.close();
      resolve(any);
    };
    for (const kind of ["status", "progress", "completion"]) {
      source.addEventListener(kind, (event) => {
        any = true;
        if (heard(kind, JSON.parse(event.data))) end();
      });
    }
    source.addEventListener("error", end);
    signal.addEventListener("abort", end, { once: true });
  });
}

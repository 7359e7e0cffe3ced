// Wires the page: form and pose become requests, requests become jobs, jobs become cards and pictures.

import { Problem, cancel, imageAddress, recipes } from "./api.js";
import { Cards } from "./cards.js";
import { announce } from "./dom.js";
import { FleetPanel } from "./fleet.js";
import { Follower } from "./follow.js";
import { RequestForm, randomSeed } from "./form.js";
import { Gallery } from "./gallery.js";
import { Jobs } from "./jobs.js";
import { settingsOf } from "./picture_settings.js";
import { PosePanel } from "./pose.js";
import { READY_POSES } from "./ready_poses.js";
import { SignIn } from "./sign_in.js";
import { stateName } from "./wording.js";

const DRAFT = "darkroom.draft.v1";
const DRAFT_MS = 400;
const ID_BYTES = 12;

const byId = (id) => document.getElementById(id);
const form = new RequestForm(byId("request"));
const pose = new PosePanel(byId("pose"));
const jobs = new Jobs();
const follower = new Follower(jobs);
const signIn = new SignIn(byId("sign-in"), byId("account"));
const actions = { cancel: stop, again, usePose, correctPose, dismiss: (id) => jobs.remove(id) };
const fleet = new FleetPanel(byId("fleet"));
new Cards(byId("jobs"), jobs, fleet, actions);
new Gallery(byId("gallery"), byId("viewer"), jobs, actions);

let sending = false;

async function send(request, picture = null) {
  const id = `web-${[...crypto.getRandomValues(new Uint8Array(ID_BYTES))].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
  const upload = picture ? { name: picture.file.name, kind: picture.kind } : null;
  const job = { id, request: { ...request, request_id: id }, upload, sentAt: Date.now(), status: "unsent" };
  sending = true;
  form.sending(true);
  try {
    await follower.send(job, picture);
    form.accept();
    announce("Request sent");
    // On a small screen the job is somewhere below.
    document.querySelector(`#jobs [data-job="${id}"]`)?.scrollIntoView({ block: "nearest" });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    form.refuse(problem);
  } finally {
    sending = false;
    form.sending(false);
  }
}

function submit() {
  if (sending || !form.check()) return;
  if (pose.missing) {
    form.refuse({ detail: pose.missing, remedy: "" });
    return;
  }
  const { pose: figures, picture } = pose.pose;
  const request = form.request;
  if (figures) request.pose = figures;
  else if (!picture) delete request.control_scale;
  send(request, picture);
}

function again(id) {
  const job = jobs.get(id);
  if (!job || sending) return;
  if (job.upload && !job.request.pose) {
    form.refuse({ detail: "The picture of its pose was not kept.", remedy: "Choose it again in the pose editor and generate." });
    return;
  }
  const failed = job.status !== "succeeded";
  send({ ...job.request, seed: randomSeed() });
  if (failed) jobs.remove(id);
}

function usePose(id) {
  const { request } = jobs.get(id);
  form.set(request);
  pose.use(request.pose);
  byId("pose").scrollIntoView({ block: "start" });
  announce("The pose and the prompt are in the editor");
}

// The figures that were found in a photo, over the photo while the page has it, else over the picture that was painted:
// all fill the same frame.
async function correctPose(id, index) {
  const { request, completion, upload } = jobs.get(id);
  form.set(request);
  await pose.use({ people: completion.found.map((person) => person.points.map((point) => point && point.slice(0, 2))) });
  pose.showBehind((upload && pose.addressOf(upload.name)) ?? imageAddress(id, index));
  byId("pose").scrollIntoView({ block: "start" });
  announce(`${completion.found.length === 1 ? "1 figure" : `${completion.found.length} figures`} from the photo, in the editor`);
}

// Puts the settings in that a picture says it was made with.
async function takeFrom(file) {
  const made = await settingsOf(file);
  if (made === null) {
    form.refuse({
      detail: `${file.name} does not say how it was made.`,
      remedy: "Choose the file of a picture that was painted here. Programs that save it again leave the settings out."
    });
    return;
  }
  form.set(made.request);
  pose.use(made.pose);
  form.accept();
  if (made.lost.length) {
    const names = made.lost.map((name) => name.replaceAll("_", " ")).join(", ");
    form.refuse({ detail: `Not all of it can be asked for here: ${names}.`, remedy: "The rest is in the form." });
  }
  announce(`The settings of ${file.name} are in the form`);
}

function acceptPictures() {
  const request = byId("request");
  const chooser = request.querySelector("[data-source-picture]");
  request.querySelector("[data-from-picture]").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    if (chooser.files[0]) takeFrom(chooser.files[0]);
    chooser.value = "";
  });
  request.addEventListener("drop", (event) => {
    if (event.dataTransfer.files[0]) takeFrom(event.dataTransfer.files[0]);
  });
}

async function stop(id) {
  jobs.update(id, { cancelling: true });
  try {
    await cancel(id);
    follower.wake();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    jobs.update(id, { cancelling: false, problem: { detail: problem.detail, remedy: problem.remedy } });
  }
}

// --- What is being written is kept, so that a reload loses nothing ----------------------------------------

let keeping = null;

function keepDraft() {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    const draft = { request: form.request, pose: pose.figures.asked, none: pose.mode === "none" };
    try {
      localStorage.setItem(DRAFT, JSON.stringify(draft));
    } catch {
      // Without storage the draft lasts as long as the page.
    }
  }, DRAFT_MS);
}

function takeUpDraft() {
  let draft = null;
  try {
    draft = JSON.parse(localStorage.getItem(DRAFT));
  } catch {
    // Unreadable, so there is none.
  }
  if (draft?.request) form.set(draft.request);
  resize();
  const kept = draft?.pose?.people?.length ? draft.pose : null;
  if (kept) pose.figures.replace(kept.people, { ...kept, remember: false });
  else pose.figures.replace(READY_POSES[0].people, { remember: false });
  if (draft?.none) pose.mode = "none";
}

async function offerRecipes() {
  try {
    form.offer(await recipes());
  } catch (problem) {
    // The form is whole without them: whoever wants one loads the page again.
    if (!(problem instanceof Problem)) throw problem;
  }
}

function resize() {
  const { width, height } = form.size;
  if (width !== pose.figures.size.width || height !== pose.figures.size.height) pose.resize(width, height);
}

function tell({ detail: { job, before } }) {
  if (job.status === before) return;
  const error = job.completion?.error ?? { message: job.problem?.detail ?? "" };
  const words = job.status === "failed" ? `${stateName(job)}: ${error.message}` : stateName(job);
  announce(`${words}: ${job.request.prompt.slice(0, 60)}`);
}

async function begin() {
  takeUpDraft();
  acceptPictures();
  form.addEventListener("edit", () => {
    resize();
    keepDraft();
  });
  pose.addEventListener("edit", keepDraft);
  jobs.addEventListener("update", tell);
  addEventListener("pagehide", () => jobs.flush());
  byId("request").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    submit();
  });
  signIn.addEventListener("signed-in", ({ detail }) => {
    jobs.open(detail.tenant);
    follower.wake();
  });
  const who = await signIn.somebody().catch(() => ({ tenant: "default" }));
  jobs.open(who.tenant);
  offerRecipes();
  fleet.run();
}

begin();

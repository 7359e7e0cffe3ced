// The list of jobs that are on their way or did not succeed.

import { button, element, setText, show } from "./dom.js";
import { isActive } from "./jobs.js";
import { JOINTS, thumbnail } from "./skeleton.js";
import { stateName, whereabouts } from "./wording.js";

const SECOND_MS = 1000;

export class Cards {
  #list;
  #empty;
  #count;
  #jobs;
  #fleet;
  #actions;
  #cards = new Map();

  // `fleet` knows how many workers there are. `actions`: cancel(job), again(job) and dismiss(job).
  constructor(root, jobs, fleet, actions) {
    this.#fleet = fleet;
    this.#list = root.querySelector("[data-list]");
    this.#empty = root.querySelector("[data-empty]");
    this.#count = root.querySelector("[data-count]");
    this.#jobs = jobs;
    this.#actions = actions;
    jobs.addEventListener("reset", () => this.#reset());
    for (const kind of ["add", "update"]) jobs.addEventListener(kind, ({ detail }) => this.#show(detail.job));
    jobs.addEventListener("remove", ({ detail }) => this.#drop(detail.job.id));
    setInterval(() => this.#tick(), SECOND_MS);
  }

  #reset() {
    for (const id of [...this.#cards.keys()]) this.#drop(id);
    for (const job of this.#jobs.all.reverse()) this.#show(job);
    this.#counted();
  }

  #show(job) {
    if (job.status === "succeeded") return this.#drop(job.id);
    let card = this.#cards.get(job.id);
    if (!card) {
      card = new Card(job, this.#actions);
      this.#cards.set(job.id, card);
      this.#list.prepend(card.root);
    }
    card.update(job, this.#fleet.workers);
    this.#counted();
  }

  #drop(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    // Whoever had the focus in the card goes on in the list instead of at the page's top.
    const held = card.root.contains(document.activeElement);
    card.root.remove();
    this.#cards.delete(id);
    if (held) (this.#list.querySelector("button") ?? this.#list).focus();
    this.#counted();
  }

  #counted() {
    show(this.#empty, this.#cards.size === 0);
    const active = [...this.#cards.keys()].filter((id) => isActive(this.#jobs.get(id) ?? {})).length;
    setText(this.#count, active ? `${active} under way` : "");
  }

  #tick() {
    if (document.hidden) return;
    for (const id of this.#cards.keys()) this.#cards.get(id).tell(this.#jobs.get(id), this.#fleet.workers);
  }
}

class Card {
  constructor(job, { cancel, again, dismiss }) {
    this.state = element("span", { class: "state" });
    this.where = element("span", { class: "where" });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Steps done" });
    this.preview = element("img", { alt: "Preview of the picture so far", hidden: true });
    this.picture = element("div", { class: "card-picture" }, this.preview, placeholder(job.request));
    this.problem = element("p", { class: "card-problem" });
    this.cancel = button("Cancel", { glyph: "close", on: { click: () => cancel(job.id) } });
    this.again = button("Try again", { glyph: "again", on: { click: () => again(job.id) } });
    this.dismiss = button("Remove", { glyph: "trash", on: { click: () => dismiss(job.id) } });
    const prompt = element("p", { class: "card-prompt", dir: "auto", title: job.request.prompt }, job.request.prompt);
    const line = element("p", { class: "card-line" }, this.state, this.where);
    const actions = element("div", { class: "card-actions" }, this.cancel, this.again, this.dismiss);
    const words = element("div", { class: "card-words" }, prompt, line, this.bar, this.problem, actions);
    this.root = element("li", { class: "card", "data-job": job.id }, this.picture, words);
  }

  update(job, workers) {
    const active = isActive(job);
    this.root.dataset.status = job.status;
    setText(this.state, stateName(job));
    this.tell(job, workers);
    show(this.bar, active);
    if (job.progress) Object.assign(this.bar, { max: job.progress.total, value: job.progress.done });
    else if (job.status !== "queued") this.bar.removeAttribute("value");
    if (job.preview && this.preview.src !== job.preview) this.preview.src = job.preview;
    show(this.preview, Boolean(job.preview));
    this.#complain(job);
    show(this.cancel, active && !job.cancelling);
    show(this.again, !active);
    show(this.dismiss, !active);
  }

  tell(job, workers) {
    if (job) setText(this.where, isActive(job) ? whereabouts(job, Date.now(), workers) : "");
  }

  #complain(job) {
    const error = job.completion?.error;
    const detail = error?.message ?? job.problem?.detail;
    const remedy = error?.remedy ?? job.problem?.remedy;
    const wanted = job.status === "cancelled";
    show(this.problem, Boolean(detail) && !wanted);
    this.problem.replaceChildren(...(detail ? [element("span", {}, detail), remedy ? element("span", { class: "remedy" }, remedy) : ""] : []));
  }
}

function placeholder(request) {
  const { people, canvas } = request.pose ?? {};
  const isPlain = people?.every((one) => one.length === JOINTS.length) && !canvas;
  const drawn = isPlain ? thumbnail(people, request.width ?? 1, request.height ?? 1) : null;
  return drawn ?? element("span", { class: "blank" });
}

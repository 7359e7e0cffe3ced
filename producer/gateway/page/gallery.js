// The pictures that are done, one tile each, newest first, and the viewer that shows one large.

import { imageAddress } from "./api.js";
import { announce, button, element, icon, setText, show } from "./dom.js";
import { batchSeen, duration, promptRead, timings } from "./wording.js";

const COPIED_MS = 1500;

export class Gallery {
  #root;
  #list;
  #jobs;
  #actions;
  #viewer;

  // `actions`: again(id), usePose(id), correctPose(id, index) and dismiss(id).
  constructor(root, dialog, jobs, actions) {
    this.#root = root;
    this.#list = root.querySelector("[data-list]");
    this.#jobs = jobs;
    this.#actions = actions;
    this.#viewer = new Viewer(dialog, this);
    jobs.addEventListener("reset", () => this.#reset());
    jobs.addEventListener("update", ({ detail }) => {
      if (detail.job.status === "succeeded" && detail.before !== "succeeded") this.#add(detail.job);
    });
    jobs.addEventListener("remove", ({ detail }) => this.#drop(detail.job.id));
  }

  // Every picture, newest first: {job, image, index}.
  get pictures() {
    return this.#jobs.all
      .filter((job) => job.status === "succeeded")
      .flatMap((job) => job.completion.images.map((image, index) => ({ job, image, index })));
  }

  actions(job, image, index) {
    const { again, usePose, correctPose, dismiss } = this.#actions;
    const word = (text) => element("span", { class: "word" }, text);
    const save = { class: "button quiet", href: imageAddress(job.id, index), download: fileName(job, image, index), title: "Save the picture" };
    return [
      button(word("Another seed"), { glyph: "dice", title: "Again with another seed", on: { click: () => again(job.id) } }),
      job.request.pose
        ? button(word("Use pose"), { glyph: "figure", title: "Use this pose and prompt", on: { click: () => usePose(job.id) } })
        : null,
      job.completion.found?.length
        ? button(word("Correct pose"), { glyph: "eye", title: "The figures found in the photo, to be corrected over it", on: { click: () => correctPose(job.id, index) } })
        : null,
      element("a", save, icon("export"), word("Save")),
      button(word("Remove"), { glyph: "trash", title: "Remove from this gallery; the stored picture stays", on: { click: () => dismiss(job.id) } })
    ].filter(Boolean);
  }

  #reset() {
    this.#list.replaceChildren();
    for (const job of this.#jobs.all.reverse()) if (job.status === "succeeded") this.#add(job);
    this.#counted();
  }

  #add(job) {
    this.#list.prepend(...job.completion.images.map((image, index) => this.#tile(job, image, index)));
    this.#counted();
  }

  #drop(id) {
    for (const tile of this.#list.querySelectorAll(`[data-job="${id}"]`)) tile.remove();
    this.#counted();
  }

  #counted() {
    const count = this.#list.children.length;
    show(this.#root.querySelector("[data-empty]"), count === 0);
    setText(this.#root.querySelector("[data-count]"), count ? `${count}` : "");
  }

  #tile(job, image, index) {
    const { completion, request } = job;
    const time = timings(completion);
    const open = () => this.#viewer.open(job.id, index);
    const picture = element("img", { src: imageAddress(job.id, index), alt: request.prompt, width: image.width, height: image.height, loading: "lazy", decoding: "async" });
    const facts = element(
      "dl",
      { class: "facts" },
      fact("queued", duration(time.queued)),
      fact("render", duration(time.render)),
      fact("store", duration(time.store)),
      fact("batch", batchSeen(completion))
    );
    return element(
      "li",
      { class: "tile", "data-job": job.id },
      element("button", { type: "button", class: "open", "aria-label": `Open large: ${request.prompt}`, on: { click: open } }, picture),
      element("p", { class: "tile-prompt", dir: "auto", title: request.prompt }, request.prompt),
      seedButton(image.seed),
      facts,
      element("div", { class: "tile-actions" }, this.actions(job, image, index))
    );
  }
}

const fileName = (job, image, index) => `${job.id}-${index}.${image.content_type === "image/jpeg" ? "jpg" : image.content_type.split("/")[1]}`;

function fact(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

function seedButton(seed) {
  const made = button(`Seed ${seed}`, { glyph: "copy", title: "Copy the seed" });
  made.classList.add("seed");
  made.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(String(seed));
      made.classList.add("copied");
      announce(`Seed ${seed} copied`);
      setTimeout(() => made.classList.remove("copied"), COPIED_MS);
    } catch {
      // Without permission, or over plain HTTP, the number can still be marked by hand.
      getSelection().selectAllChildren(made);
    }
  });
  return made;
}

// One picture large, with everything that is known of it. Arrow keys go to the next and the previous one.
class Viewer {
  #dialog;
  #gallery;
  #at = 0;

  constructor(dialog, gallery) {
    this.#dialog = dialog;
    this.#gallery = gallery;
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.querySelector("[data-previous]").addEventListener("click", () => this.#go(-1));
    dialog.querySelector("[data-next]").addEventListener("click", () => this.#go(1));
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.#go(step);
    });
  }

  open(id, index) {
    this.#at = this.#gallery.pictures.findIndex((one) => one.job.id === id && one.index === index);
    this.#show();
    this.#dialog.showModal();
  }

  #go(step) {
    const count = this.#gallery.pictures.length;
    this.#at = (this.#at + step + count) % count;
    this.#show();
  }

  #show() {
    const { pictures } = this.#gallery;
    const shown = pictures[this.#at];
    if (!shown) return this.#dialog.close();
    const { job, image, index } = shown;
    const { completion, request } = job;
    const time = timings(completion);
    Object.assign(this.#dialog.querySelector("[data-large]"), { src: imageAddress(job.id, index), alt: request.prompt });
    setText(this.#dialog.querySelector("[data-title]"), request.prompt);
    setText(this.#dialog.querySelector("[data-place]"), `${this.#at + 1} of ${pictures.length}`);
    const known = {
      "Not wanted": request.negative_prompt,
      Seed: image.seed,
      Size: `${image.width} × ${image.height}`,
      Preset: request.steps ? `${request.steps} steps` : request.preset,
      Recipe: request.recipe,
      Sampler: request.sampler,
      Schedule: request.schedule,
      Guidance: request.guidance_scale,
      "Prompt read": promptRead(completion),
      Model: completion.model?.name,
      Worker: completion.worker,
      "Rows a batch": batchSeen(completion),
      Queued: duration(time.queued),
      Rendered: duration(time.render),
      Stored: duration(time.store),
      "In all": duration(time.total),
      "Device time": completion.cost ? duration(completion.cost.device_seconds * 1000) : null,
      Request: job.id
    };
    const rows = Object.entries(known).filter(([, value]) => value !== null && value !== undefined);
    this.#dialog.querySelector("[data-known]").replaceChildren(...rows.map(([name, value]) => fact(name, value)));
    const actions = this.#gallery.actions(job, image, index);
    for (const action of actions) action.addEventListener("click", () => action.localName === "button" && this.#dialog.close());
    this.#dialog.querySelector("[data-actions]").replaceChildren(...actions);
    return undefined;
  }
}

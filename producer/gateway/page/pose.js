// The middle of the page: a pose by figures, by a picture, or none; the tools around the editor and what files bring.

import { announce, element, setText, show } from "./dom.js";
import { PoseEditor } from "./editor.js";
import { FIGURES_MAX, Figures } from "./figures.js";
import { PICTURE_WORDS, PoseFileError, jsonOf, pngOf, readKeypoints, readPoseFile } from "./pose_files.js";
import { READY_POSES } from "./ready_poses.js";
import { JOINTS, drawnSize, thumbnail } from "./skeleton.js";

export class PosePanel extends EventTarget {
  figures = new Figures();
  #root;
  #editor;
  #picture = null;

  constructor(root) {
    super();
    this.#root = root;
    this.#editor = new PoseEditor(this.#part("stage"), this.figures);
    this.#offerReadyPoses();
    this.#tools();
    this.#inspector();
    this.#files();
    for (const mode of this.#modes()) mode.addEventListener("change", () => this.#turned());
    this.figures.addEventListener("change", () => this.#changed());
    this.figures.addEventListener("select", () => this.#inspect());
  }

  // "figures", "picture" or "none".
  get mode() {
    return this.#modes().find((mode) => mode.checked).value;
  }

  set mode(value) {
    for (const mode of this.#modes()) mode.checked = mode.value === value;
    this.#turned();
  }

  // What a request carries: {pose} in JSON form, {picture: {file, kind}} to be sent beside it, or {}.
  get pose() {
    if (this.mode === "picture" && this.#picture?.file) return { picture: { file: this.#picture.file, kind: this.#kind() } };
    if (this.mode === "picture" && this.#picture?.stored) return { pose: this.#picture.stored };
    const pose = this.figures.asked;
    return this.mode !== "figures" || pose.people.length === 0 ? {} : { pose };
  }

  // Why there is no pose although one is wanted, or null.
  get missing() {
    return this.mode === "picture" && !this.#picture ? "Choose a picture of a pose, or turn to figures or no pose." : null;
  }

  // Takes the pose of an earlier request.
  async use(pose) {
    this.showBehind(null);
    // Other formats and canvases than the editor's are read as files are.
    const isOurs = (pose?.format ?? "coco18") === "coco18" && !pose?.canvas && pose?.people?.every((one) => one.every((p) => p?.length !== 3));
    if (pose?.people && !isOurs) ({ pose } = await readKeypoints(new Blob([JSON.stringify(pose)])));
    if (pose?.people) {
      this.figures.replace(pose.people, pose);
      this.mode = "figures";
    } else if (pose) {
      this.#setPicture({ stored: pose });
      this.mode = "picture";
    } else this.mode = "none";
  }

  // Where the page has a chosen picture of this name, or null.
  addressOf(name) {
    return this.#picture?.file?.name === name ? this.#picture.url : null;
  }

  // Shows a picture behind the figures, filling the frame, until another pose comes; null: none.
  showBehind(address) {
    const behind = this.#part("behind");
    if (address) behind.src = address;
    else behind.removeAttribute("src");
    behind.classList.remove("away");
    show(this.#part("behind-frame"), Boolean(address));
    show(this.#part("tool=behind"), Boolean(address));
  }

  resize(width, height) {
    if (width < 1 || height < 1) return;
    this.figures.resize(width, height);
    const drawn = drawnSize(width, height);
    const frame = this.#part("frame");
    frame.style.setProperty("--aspect", String(drawn.width / drawn.height));
    const wide = [...this.#root.querySelectorAll("[data-ready] svg")];
    for (const picture of wide) picture.setAttribute("preserveAspectRatio", "xMidYMid meet");
  }

  #part(name) {
    return this.#root.querySelector(`[data-${name}]`);
  }

  #modes() {
    return [...this.#root.querySelectorAll("[name=pose-mode]")];
  }

  #kind() {
    return this.#root.querySelector("[name=picture-kind]:checked").value;
  }

  #turned() {
    for (const part of this.#root.querySelectorAll("[data-only]")) show(part, part.dataset.only.split(" ").includes(this.mode));
    this.dispatchEvent(new Event("edit"));
  }

  #changed() {
    this.#inspect();
    const { figures } = this;
    const full = figures.figures.length >= FIGURES_MAX;
    this.#enable({
      undo: figures.canUndo, redo: figures.canRedo, add: !full, duplicate: !full && figures.selected,
      mirror: figures.selected, remove: figures.selected, larger: figures.selected, smaller: figures.selected,
      export: figures.selected, "export-png": figures.selected
    });
    show(this.#part("nobody"), figures.figures.length === 0);
    this.dispatchEvent(new Event("edit"));
  }

  // Off by aria-disabled: a disabled button would lose the focus of whoever pressed it.
  #enable(tools) {
    for (const [name, on] of Object.entries(tools)) {
      this.#root.querySelector(`[data-tool=${name}]`).setAttribute("aria-disabled", String(!on));
    }
  }

  #offerReadyPoses() {
    const list = this.#part("ready");
    for (const { name, people } of READY_POSES) {
      const choose = () => {
        this.figures.pose(people);
        announce(`${name}: pose set`);
      };
      list.append(element("button", { type: "button", class: "ready", title: name, on: { click: choose } }, thumbnail(people, 1, 1), element("span", {}, name)));
    }
  }

  #tools() {
    const tools = {
      undo: () => this.figures.undo(),
      redo: () => this.figures.redo(),
      add: () => this.figures.add(),
      duplicate: () => this.figures.duplicate(),
      mirror: () => this.figures.mirror(),
      remove: () => this.figures.remove(),
      larger: () => this.figures.scale(1.05),
      smaller: () => this.figures.scale(1 / 1.05),
      reset: () => this.figures.pose(READY_POSES[0].people),
      behind: () => this.#part("behind").classList.toggle("away"),
      import: () => this.#part("file").click(),
      export: () => this.#save("pose.json", new Blob([jsonOf(this.figures.asked)], { type: "application/json" })),
      "export-png": async () => this.#save("pose.png", await pngOf(this.figures.figures, this.figures.size))
    };
    for (const [name, act] of Object.entries(tools)) {
      const tool = this.#root.querySelector(`[data-tool=${name}]`);
      tool.addEventListener("click", () => {
        if (tool.getAttribute("aria-disabled") === "true") return;
        act();
        if (tool.title) announce(`${tool.title}: done`);
      });
    }
    this.#root.addEventListener("keydown", (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.target.matches("input, textarea")) return;
      const key = event.key.toLowerCase();
      if (key === "z" && !event.shiftKey) this.figures.undo();
      else if (key === "y" || (key === "z" && event.shiftKey)) this.figures.redo();
      else return;
      event.preventDefault();
    });
  }

  // --- One joint in numbers ------------------------------------------------------------------------------

  #inspector() {
    const { figures } = this;
    const [who, which, x, y, seen] = ["who", "which", "x", "y", "seen"].map((name) => this.#part(name));
    which.append(...JOINTS.map((name, index) => element("option", { value: index }, name)));
    who.addEventListener("change", () => figures.select(Number(who.value), figures.joint));
    which.addEventListener("change", () => figures.select(figures.figure, Number(which.value)));
    const move = () => {
      const [atX, atY] = [Number(x.value), Number(y.value)];
      if (x.value === "" || y.value === "" || !Number.isFinite(atX + atY)) return;
      figures.moveJoint(figures.figure, figures.joint, atX / 100, atY / 100, `numbers ${figures.figure} ${figures.joint}`);
    };
    x.addEventListener("input", move);
    y.addEventListener("input", move);
    seen.addEventListener("change", () => figures.setSeen(figures.figure, figures.joint, seen.checked));
  }

  #inspect() {
    const { figures } = this;
    const count = figures.figures.length;
    const who = this.#part("who");
    if (who.options.length !== count) {
      who.replaceChildren(...figures.figures.map((_, index) => element("option", { value: index }, `Figure ${index + 1}`)));
    }
    for (const field of this.#part("inspector").querySelectorAll("select, input")) field.disabled = count === 0;
    if (!figures.selected) return;
    who.value = String(figures.figure);
    this.#part("which").value = String(figures.joint);
    const point = figures.selected[figures.joint];
    for (const axis of ["x", "y"]) {
      const field = this.#part(axis);
      if (field !== document.activeElement) field.value = (point[axis] * 100).toFixed(1);
    }
    this.#part("seen").checked = point.seen;
  }

  // --- Files ---------------------------------------------------------------------------------------------

  #files() {
    const chooser = this.#part("file");
    chooser.addEventListener("change", () => {
      if (chooser.files[0]) this.#read(chooser.files[0]);
      chooser.value = "";
    });
    this.#part("choose").addEventListener("click", () => chooser.click());
    setText(this.#part("limits"), PICTURE_WORDS);
    for (const kind of this.#root.querySelectorAll("[name=picture-kind]")) kind.addEventListener("change", () => this.#warnOfKind());
    const frame = this.#part("frame");
    for (const kind of ["dragenter", "dragover"]) {
      frame.addEventListener(kind, (event) => {
        event.preventDefault();
        frame.classList.add("dropping");
      });
    }
    for (const kind of ["dragleave", "drop"]) frame.addEventListener(kind, () => frame.classList.remove("dropping"));
    frame.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) this.#read(event.dataTransfer.files[0]);
    });
    // A file dropped beside the frame would make the browser leave the page.
    for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
  }

  // `pixels` is "WIDTHxHEIGHT" where the user was asked for it.
  async #read(file, pixels = null) {
    this.#ask(null);
    try {
      const { pose, notes, picture } = await readPoseFile(file, pixels);
      this.#say(notes?.length ? `Read ${file.name}: ${notes.join("; ")}.` : "");
      if (pose) await this.use(pose);
      else {
        this.#setPicture(picture);
        this.mode = "picture";
      }
      announce(pose?.people ? `${pose.people.length} figures read` : `Picture ${file.name} chosen`);
    } catch (error) {
      if (!(error instanceof PoseFileError)) throw error;
      this.#say(`${error.message} ${error.remedy}`);
      if (error.needsSize) this.#ask(file);
    }
  }

  // Asks how large the picture is that a file's coordinates are pixels of; null: asks nothing.
  #ask(file) {
    const form = this.#part("file-size");
    show(form, Boolean(file));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (file) this.#read(file, `${this.#part("size-width").value}x${this.#part("size-height").value}`);
    };
  }

  #setPicture(picture) {
    if (this.#picture?.url) URL.revokeObjectURL(this.#picture.url);
    this.#picture = picture;
    const view = this.#part("picture");
    if (picture.url) view.src = picture.url;
    else view.removeAttribute("src");
    show(view, Boolean(picture.url));
    show(this.#part("empty"), !picture.url);
    show(this.#part("kinds"), Boolean(picture.file));
    setText(this.#part("picture-name"), picture.file ? `${picture.file.name}, ${picture.width} × ${picture.height}` : "the picture of the earlier request");
    setText(this.#part("empty-words"), picture.file ? "" : "The earlier request's picture is used. Drop another one to replace it.");
    if (picture.kind) this.#root.querySelector(`[name=picture-kind][value=${picture.kind}]`).checked = true;
    this.#warnOfKind();
  }

  // What is to be said of the file that was read or refused.
  #say(words) {
    const box = this.#part("file-problem");
    setText(box, words);
    show(box, Boolean(words));
  }

  #warnOfKind() {
    const unlike = this.#kind() === "pose" ? this.#picture?.unlike : null;
    const words = `It does not look like an OpenPose skeleton on black (${unlike}): the model may not follow it.`;
    setText(this.#part("kind-warning"), unlike ? words : "");
  }

  #save(name, content) {
    const url = URL.createObjectURL(content);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

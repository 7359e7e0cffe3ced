// The pose editor: figures as OpenPose draws them, moved by pointer, touch or keys. State and undo are in figures.js.

import { announce, setText } from "./dom.js";
import { COLOURS, JOINTS, LIMBS, LIMB_BRIGHTNESS, STICK, colour, detailShapes, drawnSize, limbShape, svgElement } from "./skeleton.js";

const NEAR_PX = { mouse: 14, touch: 26, pen: 20 };
const STEP = 0.005;
const LARGE_STEP = 0.04;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class PoseEditor {
  #figures;
  #stage;
  #limbs = [];
  #joints = [];
  #details = svgElement("g", { class: "details" });
  #drag = null;
  #leaving = false;

  constructor(stage, figures) {
    this.#stage = stage;
    this.#figures = figures;
    figures.addEventListener("change", () => this.#draw());
    figures.addEventListener("select", () => this.#mark());
    stage.addEventListener("pointerdown", (event) => this.#grab(event));
    stage.addEventListener("pointermove", (event) => this.#pull(event));
    for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => this.#release(event));
    // Touches scroll the page but where they have taken hold of something. By `touch-action` alone they would scroll
    // there, too: it does not count on the children of an SVG.
    const hold = (event) => {
      if (this.#drag && event.touches.length === 1) event.preventDefault();
    };
    stage.addEventListener("touchstart", hold, { passive: false });
    stage.addEventListener("dblclick", (event) => this.#toggleAt(event));
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("focusin", (event) => this.#focused(event));
    this.#draw();
  }

  // --- Drawing: elements are made when the number of figures changes, and moved otherwise ----------------

  #draw() {
    const { width, height } = this.#scale();
    this.#stage.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (this.#joints.length !== this.#figures.figures.length) this.#make();
    this.#figures.figures.forEach((points, number) => {
      const placed = points.map((p) => ({ x: p.x * width, y: p.y * height }));
      LIMBS.forEach(([start, end], index) => {
        const shape = limbShape(placed[start], placed[end]);
        const hidden = !(points[start].seen && points[end].seen);
        for (const part of this.#limbs[number][index]) set(part, shape, hidden);
        this.#limbs[number][index][1].setAttribute("ry", STICK * 3);
      });
      points.slice(0, JOINTS.length).forEach((p, index) => {
        const joint = this.#joints[number][index];
        joint.setAttribute("transform", `translate(${placed[index].x} ${placed[index].y})`);
        joint.classList.toggle("unseen", !p.seen);
        joint.setAttribute("aria-label", this.#describe(number, index));
      });
    });
    const placed = (points) => points.map((p) => ({ ...p, x: p.x * width, y: p.y * height }));
    this.#details.replaceChildren(...this.#figures.figures.flatMap((points) => detailShapes(placed(points))));
    this.#mark();
  }

  #make() {
    const focused = this.#stage.contains(document.activeElement);
    // All limbs lie under all points, and each limb's colour over everybody before the next: as it is drawn for the model.
    this.#limbs = this.#figures.figures.map(() =>
      LIMBS.map((_, index) => [
        svgElement("ellipse", { fill: colour(index, LIMB_BRIGHTNESS) }),
        svgElement("ellipse", { class: "reach" })
      ])
    );
    this.#joints = this.#figures.figures.map((_, number) => JOINTS.map((_name, index) => jointElement(number, index)));
    const limbs = svgElement("g", { class: "limbs" });
    LIMBS.forEach((_, index) => limbs.append(...this.#limbs.flatMap((figure) => figure[index])));
    const joints = svgElement("g", { class: "joints" });
    COLOURS.forEach((_, index) => joints.append(...this.#joints.map((figure) => figure[index])));
    this.#stage.replaceChildren(limbs, this.#details, joints);
    if (focused) queueMicrotask(() => this.focus());
  }

  #mark() {
    const { figure, joint } = this.#figures;
    this.#joints.forEach((joints, number) =>
      joints.forEach((element, index) => {
        const chosen = number === figure && index === joint;
        element.classList.toggle("of-selected", number === figure);
        element.classList.toggle("selected", chosen);
        element.setAttribute("tabindex", chosen ? "0" : "-1");
      })
    );
  }

  #describe(number, index) {
    const p = this.#figures.figures[number][index];
    const who = this.#figures.figures.length > 1 ? `Figure ${number + 1}, ` : "";
    const where = p.seen ? `${Math.round(p.x * 100)}% across, ${Math.round(p.y * 100)}% down` : "not seen";
    return `${who}${JOINTS[index]}, ${where}`;
  }

  #scale() {
    return drawnSize(this.#figures.size.width, this.#figures.size.height);
  }

  focus() {
    this.#joints[this.#figures.figure]?.[this.#figures.joint]?.focus({ preventScroll: true });
  }

  // --- Pointer: the nearest point within reach, else the limb under it, which moves the whole figure ----

  // Where a pointer is, as fractions of the picture.
  #at(event) {
    const box = this.#stage.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height, box };
  }

  #nearest(event) {
    const { x, y, box } = this.#at(event);
    let best = null;
    this.#figures.figures.forEach((points, figure) =>
      points.slice(0, JOINTS.length).forEach((p, joint) => {
        const away = Math.hypot((p.x - x) * box.width, (p.y - y) * box.height);
        // Unseen points are taken last, and of two that lie together the selected figure's.
        const rank = away + (p.seen ? 0 : 4) + (figure === this.#figures.figure ? 0 : 2);
        if (away <= (NEAR_PX[event.pointerType] ?? NEAR_PX.mouse) && (!best || rank < best.rank)) best = { figure, joint, rank };
      })
    );
    return best;
  }

  #limbUnder(event) {
    const figure = this.#limbs.findIndex((limbs) => limbs.some((parts) => parts.includes(event.target)));
    return figure < 0 ? null : { figure, joint: null };
  }

  #grab(event) {
    if (event.button !== 0 || this.#drag) return;
    const taken = this.#nearest(event) ?? this.#limbUnder(event);
    if (!taken) return;
    event.preventDefault();
    const { x, y } = this.#at(event);
    this.#figures.endStroke();
    this.#figures.select(taken.figure, taken.joint ?? this.#figures.joint);
    this.focus();
    const held = taken.joint === null ? null : this.#figures.figures[taken.figure][taken.joint];
    this.#drag = { ...taken, pointer: event.pointerId, x, y, dx: held ? held.x - x : 0, dy: held ? held.y - y : 0 };
    this.#stage.setPointerCapture(event.pointerId);
    this.#stage.classList.add("dragging");
  }

  #pull(event) {
    const drag = this.#drag;
    if (!drag || drag.pointer !== event.pointerId) return;
    const { x, y } = this.#at(event);
    if (drag.joint === null) {
      this.#figures.moveFigure(drag.figure, x - drag.x, y - drag.y, "drag");
      Object.assign(drag, { x, y });
    } else {
      this.#figures.moveJoint(drag.figure, drag.joint, x + drag.dx, y + drag.dy, "drag");
    }
  }

  #release(event) {
    if (this.#drag?.pointer !== event.pointerId) return;
    this.#drag = null;
    this.#figures.endStroke();
    this.#stage.classList.remove("dragging");
  }

  #toggleAt(event) {
    const taken = this.#nearest(event);
    if (taken) this.#toggle(taken.figure, taken.joint);
  }

  // --- Keys ----------------------------------------------------------------------------------------------

  #focused(event) {
    this.#joints.forEach((joints, figure) => {
      const joint = joints.indexOf(event.target);
      if (joint >= 0 && (figure !== this.#figures.figure || joint !== this.#figures.joint)) this.#figures.select(figure, joint);
    });
  }

  #key(event) {
    const { figure, joint } = this.#figures;
    const leaving = this.#leaving;
    this.#leaving = event.key === "Escape";
    if (!this.#figures.selected || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) this.#nudge(arrow, event.shiftKey ? LARGE_STEP : STEP);
    else if (event.key === "Tab") {
      const next = joint + (event.shiftKey ? -1 : 1);
      // Beyond the first and the last point, or after Escape, Tab leaves as it does everywhere.
      if (leaving || next < 0 || next >= JOINTS.length) return;
      this.#go(figure, next);
    } else if (event.key === "PageDown" || event.key === "PageUp") {
      const count = this.#figures.figures.length;
      this.#go((figure + (event.key === "PageDown" ? 1 : count - 1)) % count, joint);
    } else if (event.key === " " || event.key === "Delete") this.#toggle(figure, joint);
    else if (event.key === "+" || event.key === "=") this.#figures.scale(1.05);
    else if (event.key === "-") this.#figures.scale(1 / 1.05);
    else return;
    event.preventDefault();
  }

  #nudge([dx, dy], step) {
    const { width, height } = this.#scale();
    const { figure, joint } = this.#figures;
    const side = Math.min(width, height);
    const p = this.#figures.selected[joint];
    this.#figures.moveJoint(figure, joint, p.x + (dx * step * side) / width, p.y + (dy * step * side) / height, `keys ${figure} ${joint}`);
    announce(this.#describe(figure, joint));
  }

  #go(figure, joint) {
    this.#figures.endStroke();
    this.#figures.select(figure, joint);
    this.focus();
  }

  #toggle(figure, joint) {
    this.#figures.setSeen(figure, joint, !this.#figures.figures[figure][joint].seen);
    announce(this.#describe(figure, joint));
  }
}

function jointElement(number, index) {
  const joint = svgElement("g", { class: "joint", role: "button", "data-figure": number, "data-joint": index });
  joint.append(
    svgElement("circle", { class: "reach", r: 14 }),
    svgElement("circle", { class: "ring", r: STICK + 5 }),
    svgElement("circle", { class: "dot", r: STICK, fill: colour(index), stroke: colour(index) }),
    svgElement("title")
  );
  setText(joint.lastChild, JOINTS[index]);
  return joint;
}

function set(part, shape, hidden) {
  for (const [name, value] of Object.entries(shape)) part.setAttribute(name, value);
  part.setAttribute("visibility", hidden ? "hidden" : "visible");
}

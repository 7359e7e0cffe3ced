// The figures of a pose and what can be done to them, with undo. Knows neither SVG nor the page.
//
// A figure is 18 points {x, y, seen}. An unseen point keeps its place, so that it can be seen again. Where a file gave
// hands or a face, 21 points of the left hand, 21 of the right and those of the face follow, and move with the body.

import { drawnSize, HAND_POINTS, JOINTS, LIMBS, MIRRORED } from "./skeleton.js";
import { READY_POSES } from "./ready_poses.js";

export const FIGURES_MAX = 8;
const HISTORY_MAX = 100;
const OUTSIDE_MIN = -1;
const OUTSIDE_MAX = 2;
const LEFT = JOINTS.length;
const RIGHT = LEFT + HAND_POINTS;
const FACE = RIGHT + HAND_POINTS;
// What moves with a joint: the hands with the wrists, the face with the nose.
const MOVED_WITH = { 0: [FACE, Infinity], 4: [RIGHT, FACE], 7: [LEFT, RIGHT] };
// A figure that is added lies at the first of these places across where nobody is.
const PLACES = [0, 0.16, -0.16, 0.32, -0.32, 0.08, -0.08, 0.24, -0.24, 0.4, -0.4];
const APART = 0.14;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Figures extends EventTarget {
  #past = [];
  #future = [];
  #coalescing = null;

  constructor() {
    super();
    this.size = { width: 1, height: 1 };
    this.figures = [];
    this.figure = 0;
    this.joint = 0;
  }

  get selected() {
    return this.figures[this.figure] ?? null;
  }

  // As a request carries it: lists of [x, y] or null of those who are seen, with hands and face where there are any.
  get asked() {
    const shown = this.figures.filter((points) => points.slice(0, LEFT).some((p) => p.seen));
    const pose = { people: shown.map((points) => toJson(points.slice(0, LEFT))), format: "coco18" };
    const hands = shown.map((points) => {
      const both = [toJson(points.slice(LEFT, RIGHT)), toJson(points.slice(RIGHT, FACE))].map((hand) => (hand.some(Boolean) ? hand : null));
      return both.some(Boolean) ? both : null;
    });
    const face = shown.map((points) => toJson(points.slice(FACE))).map((points) => (points.some(Boolean) ? points : null));
    if (hands.some(Boolean)) pose.hands = hands;
    if (face.some(Boolean)) pose.face = face;
    return pose;
  }

  // Replaces all figures by people in JSON form. Without `remember` there is nothing to undo.
  replace(people, { remember = true, hands = [], face = [] } = {}) {
    if (remember) this.#remember();
    this.figures = people.slice(0, FIGURES_MAX).map((person, index) => [...fromJson(person), ...details(hands?.[index], face?.[index])]);
    this.#select(0, this.joint);
    this.#changed();
  }

  // Replaces all figures by a pose that was drawn for a square, with its proportions kept.
  pose(people) {
    this.replace(people.map((person) => person.map((p) => p && this.#fromSquare(p))));
  }

  // The picture's new size. Figures keep their proportions and their place around the middle.
  resize(width, height) {
    const before = drawnSize(this.size.width, this.size.height);
    const after = drawnSize(width, height);
    this.size = { width, height };
    const along = (value, old, now) => clamp(0.5 + ((value - 0.5) * old) / now, OUTSIDE_MIN, OUTSIDE_MAX);
    const moved = (figures) =>
      figures.map((points) =>
        points.map((p) => ({
          ...p,
          x: along(p.x, before.width, after.width),
          y: along(p.y, before.height, after.height)
        }))
      );
    this.figures = moved(this.figures);
    for (const moment of [...this.#past, ...this.#future]) moment.figures = moved(moment.figures);
    this.#changed();
  }

  select(figure, joint) {
    this.#select(figure, joint);
    this.dispatchEvent(new Event("select"));
  }

  // Moves one point to (x, y) in the picture. Moves with the same `stroke` are one step of undo.
  moveJoint(figure, joint, x, y, stroke = null) {
    this.#remember(stroke);
    const points = this.figures[figure];
    const point = points[joint];
    const [dx, dy] = [clamp(x, 0, 1) - point.x, clamp(y, 0, 1) - point.y];
    Object.assign(point, { x: clamp(x, 0, 1), y: clamp(y, 0, 1) });
    for (const p of points.slice(...(MOVED_WITH[joint] ?? [0, 0]))) {
      p.x = clamp(p.x + dx, OUTSIDE_MIN, OUTSIDE_MAX);
      p.y = clamp(p.y + dy, OUTSIDE_MIN, OUTSIDE_MAX);
    }
    this.#changed();
  }

  moveFigure(figure, dx, dy, stroke = null) {
    this.#remember(stroke);
    const points = this.figures[figure];
    const middle = centre(points);
    const stepX = clamp(middle.x + dx, 0, 1) - middle.x;
    const stepY = clamp(middle.y + dy, 0, 1) - middle.y;
    for (const p of points) {
      p.x = clamp(p.x + stepX, OUTSIDE_MIN, OUTSIDE_MAX);
      p.y = clamp(p.y + stepY, OUTSIDE_MIN, OUTSIDE_MAX);
    }
    this.#changed();
  }

  setSeen(figure, joint, seen) {
    this.#remember();
    this.figures[figure][joint].seen = seen;
    this.#changed();
  }

  add() {
    if (this.figures.length >= FIGURES_MAX) return;
    const standing = fromJson(READY_POSES[0].people[0].map((p) => this.#fromSquare(p)));
    this.#insert(this.#aside(standing, PLACES));
  }

  duplicate() {
    if (!this.selected || this.figures.length >= FIGURES_MAX) return;
    const places = centre(this.selected).x > 0.6 ? PLACES.map((place) => -place) : PLACES;
    this.#insert(this.#aside(this.selected, places));
  }

  remove() {
    if (!this.selected) return;
    this.#remember();
    this.figures.splice(this.figure, 1);
    this.#select(Math.min(this.figure, this.figures.length - 1), this.joint);
    this.#changed();
  }

  // As in a mirror: the other way round, and what was the left arm is the right one.
  mirror() {
    if (!this.selected) return;
    this.#remember();
    const points = this.selected;
    const axis = 2 * centre(points).x;
    // A face is drawn alike whatever the order of its points.
    const order = [...MIRRORED, ...points.slice(LEFT).map((_, index) => LEFT + (index < 2 * HAND_POINTS ? (index + HAND_POINTS) % (2 * HAND_POINTS) : index))];
    this.figures[this.figure] = order.map((from) => ({ ...points[from], x: axis - points[from].x }));
    this.#changed();
  }

  scale(factor) {
    if (!this.selected) return;
    this.#remember(`scale ${this.figure}`);
    const middle = centre(this.selected);
    for (const p of this.selected) {
      p.x = clamp(middle.x + (p.x - middle.x) * factor, OUTSIDE_MIN, OUTSIDE_MAX);
      p.y = clamp(middle.y + (p.y - middle.y) * factor, OUTSIDE_MIN, OUTSIDE_MAX);
    }
    this.#changed();
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  undo() {
    this.#travel(this.#past, this.#future);
  }

  redo() {
    this.#travel(this.#future, this.#past);
  }

  // The next change begins a new step of undo, whatever its stroke.
  endStroke() {
    this.#coalescing = null;
  }

  // A copy of a figure at the first of some places across, from where it is, where nobody else is; else the freest one.
  #aside(points, places) {
    const { x } = centre(points);
    const free = (place) => Math.min(1, ...this.figures.map((other) => Math.abs(centre(other).x - x - place)));
    const inside = places.filter((place) => x + place >= 0.05 && x + place <= 0.95);
    const place = inside.find((each) => free(each) >= APART) ?? inside.reduce((best, each) => (free(each) > free(best) ? each : best));
    return points.map((p) => ({ ...p, x: clamp(p.x + place, OUTSIDE_MIN, OUTSIDE_MAX) }));
  }

  #insert(points) {
    this.#remember();
    this.figures.push(points);
    this.#select(this.figures.length - 1, this.joint);
    this.#changed();
  }

  #select(figure, joint) {
    this.figure = clamp(figure, 0, Math.max(0, this.figures.length - 1));
    this.joint = clamp(joint, 0, JOINTS.length - 1);
  }

  #moment() {
    return { figures: this.figures.map((points) => points.map((p) => ({ ...p }))), figure: this.figure, joint: this.joint };
  }

  #remember(stroke = null) {
    if (stroke !== null && stroke === this.#coalescing) return;
    this.#coalescing = stroke;
    this.#past.push(this.#moment());
    if (this.#past.length > HISTORY_MAX) this.#past.shift();
    this.#future = [];
  }

  #travel(from, to) {
    const moment = from.pop();
    if (!moment) return;
    to.push(this.#moment());
    this.#coalescing = null;
    this.figures = moment.figures;
    this.#select(moment.figure, moment.joint);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #fromSquare([x, y]) {
    const { width, height } = drawnSize(this.size.width, this.size.height);
    const side = Math.min(width, height);
    return [0.5 + ((x - 0.5) * side) / width, 0.5 + ((y - 0.5) * side) / height];
  }
}

// The middle of what is seen, or of everything where nothing is.
function centre(points) {
  const body = points.slice(0, LEFT);
  const seen = body.filter((p) => p.seen);
  const counted = seen.length ? seen : body;
  const middle = (axis) => {
    const values = counted.map((p) => p[axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  };
  return { x: middle("x"), y: middle("y") };
}

function toJson(points) {
  const round = (value) => Math.round(value * 10000) / 10000;
  return points.map((p) => (p.seen ? [round(p.x), round(p.y)] : null));
}

// The points of hands and a face in JSON form behind a body's, none where there are neither.
function details(hands, face) {
  if (!hands && !face) return [];
  const listed = (points, count) => Array.from({ length: count }, (_, index) => {
    const p = points?.[index];
    return p ? { x: p[0], y: p[1], seen: true } : { x: 0.5, y: 0.5, seen: false };
  });
  return [...listed(hands?.[0], HAND_POINTS), ...listed(hands?.[1], HAND_POINTS), ...listed(face, face?.length ?? 0)];
}

// Unseen points get a place beside the nearest seen one along the limbs, where they can be found again.
function fromJson(person) {
  const points = person.map((p) => (p ? { x: p[0], y: p[1], seen: true } : null));
  for (let round = 0; round < LIMBS.length; round += 1) {
    for (const [start, end] of LIMBS) {
      for (const [from, to] of [[start, end], [end, start]]) {
        if (points[from] && !points[to]) {
          points[to] = { x: clamp(points[from].x + 0.03, 0, 1), y: clamp(points[from].y + 0.02, 0, 1), seen: false };
        }
      }
    }
  }
  return points.map((p) => p ?? { x: 0.5, y: 0.5, seen: false });
}

// OpenPose's skeleton: the order of its points, its limbs and colours, and how it is drawn as SVG.
//
// The figures are those of inference/pose/skeleton.py, which draws what the model sees; a test holds the two together.
// A point is {x, y, seen}, as fractions of the picture; in JSON it is [x, y], or null where it is not seen.

export const SHORT_SIDE = 512;
export const STICK = 4;
export const LIMB_BRIGHTNESS = 0.6;

export const LIMBS = [
  [1, 2], [1, 5], [2, 3], [3, 4], [5, 6], [6, 7], [1, 8], [8, 9], [9, 10],
  [1, 11], [11, 12], [12, 13], [1, 0], [0, 14], [14, 16], [0, 15], [15, 17]
];

export const COLOURS = [
  [255, 0, 0], [255, 85, 0], [255, 170, 0], [255, 255, 0], [170, 255, 0], [85, 255, 0],
  [0, 255, 0], [0, 255, 85], [0, 255, 170], [0, 255, 255], [0, 170, 255], [0, 85, 255],
  [0, 0, 255], [85, 0, 255], [170, 0, 255], [255, 0, 255], [255, 0, 170], [255, 0, 85]
];

export const JOINTS = [
  "Nose", "Neck", "Right shoulder", "Right elbow", "Right wrist", "Left shoulder", "Left elbow", "Left wrist",
  "Right hip", "Right knee", "Right ankle", "Left hip", "Left knee", "Left ankle",
  "Right eye", "Left eye", "Right ear", "Left ear"
];

// For each point the one that takes its place in a mirrored figure: left becomes right.
export const MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16];

// Hands and faces as inference/pose/skeleton.py draws them: fingers in the order of hues, blue and white discs.
export const HAND_POINTS = 21;
export const FACE_RADIUS = 3;
export const FINGER_WIDTH = 3;
export const HAND_EDGES = Array.from({ length: 20 }, (_, edge) => [edge % 4 ? edge : 0, edge + 1]);

const SVG = "http://www.w3.org/2000/svg";

export function svgElement(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function colour(index, brightness = 1) {
  return `rgb(${COLOURS[index].map((channel) => Math.trunc(channel * brightness)).join(",")})`;
}

// Width and height of the drawing for an output of `width` x `height`: the short side at SHORT_SIDE.
export function drawnSize(width, height) {
  const scale = SHORT_SIDE / Math.min(width, height);
  return { width: Math.round(width * scale), height: Math.round(height * scale) };
}

// The ellipse that is a limb from a to b, both {x, y} in the drawing's units: attributes of an SVG ellipse.
export function limbShape(a, b) {
  const angle = (Math.atan2(b.y - a.y, b.x - a.x) * 180) / Math.PI;
  const cx = (a.x + b.x) / 2;
  const cy = (a.y + b.y) / 2;
  const rx = Math.hypot(b.x - a.x, b.y - a.y) / 2;
  return { cx, cy, rx, ry: STICK, transform: `rotate(${angle} ${cx} ${cy})` };
}

// The shapes of a hand's points, {x, y, seen} in the drawing's units.
export function handShapes(points) {
  const lines = HAND_EDGES.flatMap(([start, end], edge) => {
    const [a, b] = [points[start], points[end]];
    if (!a.seen || !b.seen) return [];
    const stroke = `hsl(${(edge * 360) / HAND_EDGES.length} 100% 50%)`;
    return [svgElement("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, stroke, "stroke-width": FINGER_WIDTH })];
  });
  return [...lines, ...dots(points, STICK, "rgb(0,0,255)")];
}

export const faceShapes = (points) => dots(points, FACE_RADIUS, "rgb(255,255,255)");

function dots(points, radius, fill) {
  return points.filter((p) => p.seen).map((p) => svgElement("circle", { cx: p.x, cy: p.y, r: radius, fill }));
}

// People as the model sees them, as an SVG document of `width` x `height`: figures are lists of {x, y, seen}.
export function drawing(figures, width, height) {
  const size = drawnSize(width, height);
  const picture = svgElement("svg", { xmlns: SVG, viewBox: `0 0 ${size.width} ${size.height}`, width, height });
  picture.append(svgElement("rect", { width: "100%", height: "100%", fill: "black" }));
  const placed = figures.map((points) => points.map((p) => ({ ...p, x: p.x * size.width, y: p.y * size.height })));
  LIMBS.forEach(([start, end], index) => {
    for (const points of placed) {
      if (!points[start].seen || !points[end].seen) continue;
      picture.append(svgElement("ellipse", { ...limbShape(points[start], points[end]), fill: colour(index, LIMB_BRIGHTNESS) }));
    }
  });
  COLOURS.forEach((_, index) => picture.append(...dots(placed.map((points) => points[index]), STICK, colour(index))));
  for (const points of placed) picture.append(...detailShapes(points));
  return picture;
}

// The shapes of a figure's hands and face; a figure without them has its 18 points alone.
export function detailShapes(points) {
  if (points.length === JOINTS.length) return [];
  const [left, right] = [JOINTS.length, JOINTS.length + HAND_POINTS];
  const hands = [points.slice(left, right), points.slice(right, right + HAND_POINTS)];
  return [...hands.flatMap(handShapes), ...faceShapes(points.slice(right + HAND_POINTS))];
}

// A small drawing of people in JSON form, or null where nobody has a point.
export function thumbnail(people, width, height) {
  const size = drawnSize(width, height);
  const placed = people.map((person) => person.map((p) => p && { x: p[0] * size.width, y: p[1] * size.height }));
  if (!placed.some((person) => person.some(Boolean))) return null;
  const picture = svgElement("svg", { viewBox: `0 0 ${size.width} ${size.height}`, "aria-hidden": "true" });
  // Thicker than the model sees it: at this size its own sticks would be hairlines.
  LIMBS.forEach(([start, end], index) => {
    for (const person of placed) {
      if (!person[start] || !person[end]) continue;
      const { x: x1, y: y1 } = person[start];
      const { x: x2, y: y2 } = person[end];
      const line = { x1, y1, x2, y2, stroke: colour(index, 0.85), "stroke-width": 14, "stroke-linecap": "round" };
      picture.append(svgElement("line", line));
    }
  });
  return picture;
}

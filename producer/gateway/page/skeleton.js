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

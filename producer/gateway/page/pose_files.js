// Poses as files: keypoints as JSON, OpenPose's own or Darkroom's, and pictures.

import { JOINTS } from "./skeleton.js";
import { FIGURES_MAX } from "./figures.js";

const BODY_25_TO_18 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18];
const FROM_COCO17 = [0, null, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3];
const JSON_BYTES_MAX = 1024 * 1024;
const PICTURE_BYTES_MAX = 20 * 1024 * 1024;
const DARK = 24;
const MOSTLY = 0.6;

// A file that cannot be used, with what to do instead.
export class PoseFileError extends Error {
  constructor(message, remedy) {
    super(message);
    this.remedy = remedy;
  }
}

const WANTED = "Choose Darkroom's own JSON ({\"people\": [[[x, y], ...]]}) or one that OpenPose wrote.";

// People as lists of 18 [x, y] or null, from either kind of JSON. `size` is the picture's, for pixels without a canvas.
export function peopleFromJson(text, size) {
  let read;
  try {
    read = JSON.parse(text);
  } catch {
    throw new PoseFileError("The file is not JSON.", WANTED);
  }
  // ControlNet editors write a list of pictures; the first one counts.
  const document_ = Array.isArray(read) ? read[0] : (read?.pose ?? read);
  if (!Array.isArray(document_?.people) || document_.people.length === 0) {
    throw new PoseFileError("The file names no people.", WANTED);
  }
  const canvas = { width: document_.canvas_width ?? size.width, height: document_.canvas_height ?? size.height };
  const people = document_.people.slice(0, FIGURES_MAX).map((person, number) =>
    Array.isArray(person) ? ours(person, number, document_.format) : openPose(person, number, canvas)
  );
  if (!people.some((person) => person.some(Boolean))) throw new PoseFileError("The file shows nobody.", WANTED);
  return people;
}

function ours(person, number, format = "coco18") {
  const points = format === "coco17" && person.length === 17 ? fromCoco17(person) : person;
  if (points.length !== JOINTS.length) {
    throw new PoseFileError(`Person ${number + 1} has ${person.length} points instead of ${JOINTS.length}.`, WANTED);
  }
  return points.map((p) => {
    if (p === null) return null;
    if (!Array.isArray(p) || p.length < 2 || !p.slice(0, 2).every((v) => Number.isFinite(v) && v >= -1 && v <= 2)) {
      throw new PoseFileError(`Person ${number + 1} has a point that is not [x, y] within the picture.`, WANTED);
    }
    return [p[0], p[1]];
  });
}

function fromCoco17(person) {
  const [left, right] = [person[5], person[6]];
  const neck = left && right ? [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2] : null;
  return FROM_COCO17.map((source) => (source === null ? neck : person[source]));
}

// OpenPose writes x, y, confidence in a row: pixels, or fractions with its option for that. 18 or 25 points.
function openPose(person, number, canvas) {
  const flat = person?.pose_keypoints_2d;
  if (!Array.isArray(flat) || ![18 * 3, 25 * 3].includes(flat.length) || !flat.every(Number.isFinite)) {
    throw new PoseFileError(`Person ${number + 1} has no pose_keypoints_2d of 18 or 25 points.`, WANTED);
  }
  const order = flat.length === 25 * 3 ? BODY_25_TO_18 : JOINTS.map((_, index) => index);
  const inPixels = flat.some((value, index) => index % 3 !== 2 && value > 2);
  const scale = inPixels ? canvas : { width: 1, height: 1 };
  return order.map((index) => {
    const [x, y, confidence] = flat.slice(index * 3, index * 3 + 3);
    if (confidence <= 0 || (x === 0 && y === 0)) return null;
    return [Math.min(2, Math.max(-1, x / scale.width)), Math.min(2, Math.max(-1, y / scale.height))];
  });
}

export function jsonFromPeople(people) {
  return `${JSON.stringify({ people, format: "coco18" })}\n`;
}

// What a chosen file is: {people} or {picture: {file, kind, url, width, height}}, kind "pose" or "photo".
export async function readPoseFile(file, size) {
  if (file.type === "application/json" || file.name.toLowerCase().endsWith(".json")) {
    if (file.size > JSON_BYTES_MAX) throw new PoseFileError("The JSON is larger than 1 MiB.", WANTED);
    return { people: peopleFromJson(await file.text(), size) };
  }
  if (!["image/png", "image/jpeg", "image/webp"].includes(file.type)) {
    throw new PoseFileError(`${file.name} is neither a picture nor JSON.`, "Choose a PNG, JPEG or WebP picture, or JSON.");
  }
  if (file.size > PICTURE_BYTES_MAX) {
    throw new PoseFileError("The picture is larger than 20 MiB.", "Choose a smaller one, or scale it down.");
  }
  const url = URL.createObjectURL(file);
  try {
    const { width, height, dark } = await look(url);
    return { picture: { file, url, width, height, kind: dark > MOSTLY ? "pose" : "photo" } };
  } catch {
    URL.revokeObjectURL(url);
    throw new PoseFileError(`${file.name} cannot be shown as a picture.`, "It may be damaged: open and save it again.");
  }
}

// Skeletons are drawn on black, so a picture that is mostly black is one.
async function look(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, 64, 64);
  const { data } = context.getImageData(0, 0, 64, 64);
  let dark = 0;
  for (let at = 0; at < data.length; at += 4) if (Math.max(data[at], data[at + 1], data[at + 2]) < DARK) dark += 1;
  return { width: picture.naturalWidth, height: picture.naturalHeight, dark: dark / (data.length / 4) };
}

// Poses as files: keypoints as JSON, which the gateway reads for the page and for the command line alike, and pictures.

import { Problem, readPose } from "./api.js";
import { drawing } from "./skeleton.js";

const JSON_BYTES_MAX = 4 * 1024 * 1024;
const PICTURE_MIB_MAX = 64;
const SENT_AS_THEY_ARE = { "image/png": true, "image/jpeg": true, "image/webp": true };
// What is larger is sent smaller: nothing is looked at beyond some 1,000 pixels, and the gateway takes no more than it says.
const SENT_PIXELS_MAX = 4 * 1024 * 1024;
const SENT_BYTES_MAX = 2 * 1024 * 1024;
const SENT_SIDE_PX = 2048;

// How a skeleton is told, in cells of a picture: as inference/pose/control.py does; a test holds the two together.
export const CELLS = 64;
export const DARK_LEVEL = 24;
export const BRIGHT_LEVEL = 48;
export const DARK_SHARE_MIN = 0.5;
export const COLOURED_SHARE_MIN = 0.5;
export const COLOUR_SHARE_MIN = 0.4;

export const PICTURE_WORDS = `PNG, JPEG or WebP of up to ${PICTURE_MIB_MAX} MiB; large ones are made smaller before they are sent.`;

// A file that cannot be used, with what to do instead.
export class PoseFileError extends Error {
  constructor(message, remedy, { needsSize = false } = {}) {
    super(message);
    Object.assign(this, { remedy, needsSize });
  }
}

export const jsonOf = (pose) => `${JSON.stringify(pose)}\n`;

// The figures as a skeleton picture of the output's size.
export async function pngOf(figures, { width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(drawing(figures, width, height)))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// What a chosen file is: {pose, notes}, or {picture: {file, kind, unlike, url, width, height}}, kind "pose" or "photo".
export async function readPoseFile(file, pixels = null) {
  if (file.type === "application/json" || file.name.toLowerCase().endsWith(".json")) return readKeypoints(file, pixels);
  if (!file.type.startsWith("image/")) {
    throw new PoseFileError(`${file.name} is neither a picture nor JSON.`, "Choose a PNG, JPEG or WebP picture, or JSON.");
  }
  if (file.size > PICTURE_MIB_MAX * 1024 * 1024) {
    throw new PoseFileError(`The picture is larger than ${PICTURE_MIB_MAX} MiB.`, "Choose a smaller one, or scale it down.");
  }
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const size = { width: image.naturalWidth, height: image.naturalHeight };
    const { isDark, unlike } = looksOf(levelsOf(image));
    const sent = await sendable(file, image, isDark);
    return { picture: { file: sent, url, ...size, unlike, kind: isDark ? "pose" : "photo" } };
  } catch {
    URL.revokeObjectURL(url);
    throw new PoseFileError(
      `${file.name} (${file.type.replace("image/", "").toUpperCase()}) cannot be shown as a picture.`,
      "It may be damaged, or of a kind that browsers do not read, as HEIC: save it as JPEG or PNG."
    );
  }
}

// The keypoints in a file, or in an earlier request, as the editor has them: {pose, notes}.
export async function readKeypoints(file, pixels = null) {
  if (file.size > JSON_BYTES_MAX) {
    throw new PoseFileError("The JSON is larger than 4 MiB.", "Keep only the frame that is meant in the file.");
  }
  try {
    return await readPose(file, pixels);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    const remedy = problem.needsSize ? "Give the size of the picture that they were found in." : problem.remedy;
    throw new PoseFileError(problem.detail, remedy, problem);
  }
}

// The file itself where it is small, else a smaller picture: skeletons without loss, photos as JPEG.
async function sendable(file, image, isDark) {
  const pixels = image.naturalWidth * image.naturalHeight;
  if (SENT_AS_THEY_ARE[file.type] && pixels <= SENT_PIXELS_MAX && file.size <= SENT_BYTES_MAX) return file;
  const scale = Math.min(1, SENT_SIDE_PX / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const [type, ending] = isDark ? ["image/png", "png"] : ["image/jpeg", "jpg"];
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
  return new File([blob], file.name.replace(/(\.\w+)?$/, `.${ending}`), { type });
}

// The picture's cells as [r, g, b, a, ...], on black where it is transparent.
function levelsOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = CELLS;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, CELLS, CELLS);
  context.drawImage(image, 0, 0, CELLS, CELLS);
  return context.getImageData(0, 0, CELLS, CELLS).data;
}

// Whether a picture's ground is black, as every skeleton's is, and what of it is unlike OpenPose's, or null.
export function looksOf(levels) {
  let dark = 0;
  let bright = 0;
  let coloured = 0;
  for (let at = 0; at < levels.length; at += 4) {
    const [red, green, blue] = levels.slice(at, at + 3);
    const highest = Math.max(red, green, blue);
    if (highest < DARK_LEVEL) dark += 1;
    if (highest >= BRIGHT_LEVEL) {
      bright += 1;
      if (highest - Math.min(red, green, blue) >= COLOUR_SHARE_MIN * highest) coloured += 1;
    }
  }
  const isDark = dark >= DARK_SHARE_MIN * (levels.length / 4);
  let unlike = null;
  if (!isDark) unlike = "its ground is not black";
  else if (coloured < COLOURED_SHARE_MIN * bright) unlike = "its limbs have no colours";
  return { isDark, unlike };
}

// Reads from a picture's file how it was made: the request that Darkroom wrote into it, with the image's own seed.
//
// PNG has it in text chunks, JPEG and WebP in XMP (inference/marks.py writes both). Nothing is sent anywhere.

const NAMESPACE = "urn:darkroom:picture:1:";
const BYTES_MAX = 64 * 1024 * 1024;
// Fields of a request that the form has, besides those that decide its pose.
const SHOWN = [
  "prompt", "negative_prompt", "width", "height", "steps", "seed", "count", "guidance_scale", "sampler", "schedule",
  "guidance_start", "guidance_end", "guidance_rescale", "clip_skip", "prompt_syntax", "control_scale", "output", "pose"
];
const POSE_ONLY = ["control_scale", "control_start", "control_end"];
const IDENTITY = ["tenant", "request_id"];
// What a request without these fields means, so that those of the last request do not stay.
const DEFAULTS = {
  negative_prompt: null, recipe: null, sampler: null, schedule: null, guidance_start: null, guidance_end: null,
  guidance_rescale: null, clip_skip: null, prompt_syntax: null, preset: "fast"
};

const text = (bytes) => new TextDecoder().decode(bytes);
const latin = (bytes) => new TextDecoder("latin1").decode(bytes);

// The picture's request as {request, pose, lost}, `lost` being fields that the page has none for; null where there is none.
export async function settingsOf(file) {
  if (file.size > BYTES_MAX) return null;
  const said = saidBy(new Uint8Array(await file.arrayBuffer()));
  let written;
  try {
    written = JSON.parse(said.request);
  } catch {
    return null; // no request, or somebody else's
  }
  if (typeof written?.prompt !== "string") return null;
  const pose = written.pose && !Object.values(written.pose).some((part) => typeof part === "string" && part.startsWith("sha256:")) ? written.pose : null;
  const idle = written.pose ? IDENTITY : [...IDENTITY, ...POSE_ONLY];
  const lost = Object.keys(written).filter((name) => !SHOWN.includes(name) && !idle.includes(name));
  if (written.pose && !pose) lost.push("pose");
  const seed = Number(said.seed ?? written.seed);
  return { request: { ...DEFAULTS, ...written, seed, count: 1 }, pose, lost };
}

function saidBy(bytes) {
  const view = new DataView(bytes.buffer);
  try {
    if (latin(bytes.subarray(1, 4)) === "PNG") return fromText(bytes, view);
    if (view.getUint16(0) === 0xffd8) return fromXmp(xmpOfJpeg(bytes, view));
    if (latin(bytes.subarray(8, 12)) === "WEBP") return fromXmp(xmpOfWebp(bytes, view));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the file ends in the middle
  }
  return {};
}

// PNG specification, third edition, 5.3 and 11.3.3: `darkroom:*` is ASCII, so it stands in tEXt.
function fromText(bytes, view) {
  const said = {};
  for (let at = 8; at + 8 < bytes.length; at += 12 + view.getUint32(at)) {
    const kind = latin(bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") break;
    if (kind !== "tEXt") continue;
    const [name, value] = latin(bytes.subarray(at + 8, at + 8 + view.getUint32(at))).split("\0");
    if (name.startsWith("darkroom:")) said[name.slice("darkroom:".length)] = value;
  }
  return said;
}

// JPEG (B.1.1.4) and XMP part 3, 1.1.3: one of the APP1 segments; EXIF is in another.
function xmpOfJpeg(bytes, view) {
  for (let at = 2; view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
    const content = bytes.subarray(at + 4, at + 2 + view.getUint16(at + 2));
    if (view.getUint8(at + 1) === 0xe1 && text(content).includes("<x:xmpmeta")) return text(content);
  }
  return "";
}

// RFC 9649, 2.3 and 2.7.1.5: chunks of an even length.
function xmpOfWebp(bytes, view) {
  for (let at = 12; at + 8 < bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (latin(bytes.subarray(at, at + 4)) === "XMP ") return text(bytes.subarray(at + 8, at + 8 + length));
    at += 8 + length + (length % 2);
  }
  return "";
}

function fromXmp(packet) {
  const parsed = new DOMParser().parseFromString(/<x:xmpmeta.*<\/x:xmpmeta>/s.exec(packet)?.[0] ?? "", "text/xml");
  const about = [...parsed.getElementsByTagName("*")].find((one) => one.hasAttributeNS(NAMESPACE, "request"));
  if (!about) return {};
  return { request: about.getAttributeNS(NAMESPACE, "request"), seed: about.getAttributeNS(NAMESPACE, "seed") };
}

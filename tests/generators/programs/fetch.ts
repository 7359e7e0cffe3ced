// Writes the requests by the models that openapi-generator makes for typescript-fetch.
import * as fs from "node:fs";
import { type GenerationOrder, GenerationOrderToJSON } from "./client/models/index.js";

const points = [...Array(16).fill([0.5, 0.25]), null];
const least: GenerationOrder = { requestId: "order-1", prompt: "a dancer" };
const everything: GenerationOrder = {
  requestId: "order-2", prompt: "a fencer", negativePrompt: "blurry", preset: "quality", width: 1024, height: 768,
  steps: 30, guidanceScale: 6.5, sampler: "euler", seed: 9007199254740000, count: 2, controlScale: 0.8,
  guidanceStart: 0.1, guidanceEnd: 0.8, guidanceRescale: 0.7, clipSkip: 1, recipe: "portrait",
  controlStart: 0.1, controlEnd: 0.9, adapter: { name: "ink", weight: 0.7 }, output: { format: "webp", quality: 85 },
  priority: 7, deadline: new Date("2027-01-31T12:00:00Z"), progress: "steps", labels: { campaign: "spring" },
  pose: { people: [points], format: "coco17" },
};
const stored: GenerationOrder = {
  requestId: "order-3", prompt: "a dancer", pose: { image: { bucket: "darkroom", key: "studio/p.png" } },
};
for (const [name, request] of Object.entries({ least, everything, stored })) {
  fs.writeFileSync(`${name}.json`, JSON.stringify(GenerationOrderToJSON(request)));
}

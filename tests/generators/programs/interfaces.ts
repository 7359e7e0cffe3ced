// Writes the requests as a generator's TypeScript interfaces have them. IMPORTS is replaced by what is generated.
import * as fs from "node:fs";
/*IMPORTS*/

const points: ([number, number] | null)[] = [...Array(16).fill([0.5, 0.25]), null];
const least: Request = { request_id: "order-1", prompt: "a dancer" };
const everything: Request = {
  request_id: "order-2", /*TENANT*/prompt: "a fencer", negative_prompt: "blurry", preset: "quality", width: 1024, height: 768,
  steps: 30, guidance_scale: 6.5, sampler: "euler", seed: 9007199254740000, count: 2, control_scale: 0.8,
  guidance_start: 0.1, guidance_end: 0.8, guidance_rescale: 0.7, clip_skip: 1, recipe: "portrait",
  control_start: 0.1, control_end: 0.9, adapter: { name: "ink", weight: 0.7 }, output: { format: "webp", quality: 85 },
  priority: 7, deadline: /*DEADLINE*/, progress: "steps", labels: { campaign: "spring" },
  pose: { people: [/*POINTS*/], format: "coco17" },
};
const stored: Request = {
  request_id: "order-3", prompt: "a dancer", pose: { image: { bucket: "darkroom", key: "studio/p.png" } },
};
for (const [name, request] of Object.entries({ least, everything, stored })) {
  fs.writeFileSync(`${name}.json`, JSON.stringify(request));
}

// The request form: what is in it, what is wrong with it, and what a preset or a size means.

import { icon, setText, show } from "./dom.js";

export const SEED_MAX = Number.MAX_SAFE_INTEGER;
const PRESET_STEPS = { fast: 22, quality: 35 };
const SIDE_MIN = 16;
const SIDE_MAX = 4096;
const SIDE_MULTIPLE = 8;
const PROMPT_CHARACTERS_MAX = 2000;

// Each number field: whether it may be empty, whole, and its bounds; they are those of schemas/events/request.py.
const NUMBERS = {
  steps: { empty: true, whole: true, min: 1, max: 150 },
  guidance_scale: { min: 0, max: 30 },
  seed: { empty: true, whole: true, min: 0, max: SEED_MAX },
  count: { whole: true, min: 1, max: 8 },
  control_scale: { min: 0, max: 2 },
  guidance_start: { min: 0, max: 1 },
  guidance_end: { min: 0, max: 1 },
  guidance_rescale: { min: 0, max: 1 },
  clip_skip: { whole: true, min: 0, max: 9 },
  width: { whole: true, min: SIDE_MIN, max: SIDE_MAX, multiple: SIDE_MULTIPLE },
  height: { whole: true, min: SIDE_MIN, max: SIDE_MAX, multiple: SIDE_MULTIPLE }
};

// What stands in the request only where it is not the default, or where the recipe has something else.
const MORE = ["recipe", "sampler", "schedule", "guidance_start", "guidance_end", "guidance_rescale", "clip_skip", "prompt_syntax", "fidelity"];

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

export class RequestForm extends EventTarget {
  #form;
  #fields;
  #recipes = [];
  #recipe = null;
  #wantedRecipe = "";

  constructor(form) {
    super();
    this.#form = form;
    this.#fields = form.elements;
    form.noValidate = true;
    form.addEventListener("input", (event) => this.#edited(event.target));
    this.#fields.recipe.addEventListener("change", () => this.#choose());
    form.querySelector("[data-dice]").addEventListener("click", () => this.set({ seed: randomSeed() }));
    for (const chip of form.querySelectorAll("[data-prompt]")) {
      chip.addEventListener("click", () => this.set({ prompt: chip.textContent }));
    }
    this.#shown();
  }

  // The picture's size; the model's own, which is square, where none is chosen.
  get size() {
    const chosen = this.#fields.size.value;
    if (chosen === "model") return { width: 1024, height: 1024, own: true };
    if (chosen !== "custom") {
      const [width, height] = chosen.split("x").map(Number);
      return { width, height };
    }
    return { width: Number(this.#fields.width.value), height: Number(this.#fields.height.value) };
  }

  // The request's fields, without a pose and an id.
  get request() {
    const fields = this.#fields;
    const request = { prompt: fields.prompt.value.trim(), preset: fields.preset.value, progress: "previews" };
    if (fields.negative_prompt.value.trim()) request.negative_prompt = fields.negative_prompt.value.trim();
    for (const name of ["steps", "seed", "guidance_scale", "count", "control_scale"]) {
      if (fields[name].value.trim() !== "") request[name] = Number(fields[name].value);
    }
    for (const name of MORE) {
      const { value } = fields[name];
      const counts = value !== defaultOf(fields[name]) || name in (this.#recipe?.fields ?? {});
      if (counts && value.trim() !== "") request[name] = name in NUMBERS ? Number(value) : value;
    }
    const { width, height, own } = this.size;
    if (!own) Object.assign(request, { width, height });
    if (fields.format.value !== "png") request.output = { format: fields.format.value };
    return request;
  }

  // Puts a request's fields in; those that it does not name stay as they are.
  set(values) {
    const fields = this.#fields;
    for (const name of ["prompt", "preset", "negative_prompt", "steps", "seed", "guidance_scale", "count", "control_scale"]) {
      if (name in values) fields[name].value = values[name] ?? "";
    }
    for (const name of MORE) if (name in values) fields[name].value = values[name] ?? defaultOf(fields[name]);
    if ("recipe" in values) this.#wantedRecipe = values.recipe ?? "";
    if (values.width && values.height) this.#setSize(values.width, values.height);
    if (values.output?.format) fields.format.value = values.output.format;
    if (values.size) fields.size.value = values.size;
    this.#edited(fields.prompt);
  }

  // Offers the gateway's recipes: [{name, description, fields}].
  offer(recipes) {
    this.#recipes = recipes;
    const select = this.#fields.recipe;
    const chosen = select.value || this.#wantedRecipe;
    select.replaceChildren(select.options[0], ...recipes.map(({ name }) => new Option(name, name)));
    this.#recipe = recipes.find(({ name }) => name === chosen) ?? null;
    select.value = this.#recipe?.name ?? "";
    show(this.#form.querySelector("[data-recipes]"), recipes.length > 0);
    this.#shown();
  }

  // Checks every field, says what is wrong beside it, and goes to the first one. Whether all is right.
  check() {
    const wrong = [...this.#names()].filter((name) => !this.#checkField(name));
    if (wrong.length) this.#goTo(wrong[0]);
    return wrong.length === 0;
  }

  // Shows a refusal: beside the field that its detail begins with where there is one, and above the button.
  refuse(problem) {
    const named = /^(?:body\.)?([a-z_]+)(?:\.[\w.]+)?: /.exec(problem.detail);
    if (named && this.#note(named[1])) {
      this.#say(named[1], problem.detail.slice(named[0].length));
      this.#goTo(named[1]);
    }
    const box = this.#form.querySelector("[data-refusal]");
    setText(box.querySelector("[data-detail]"), problem.detail);
    const wait = problem.retryAfterS ? ` Try again in ${problem.retryAfterS} s.` : "";
    setText(box.querySelector("[data-remedy]"), problem.remedy + wait);
    show(box, true);
  }

  accept() {
    show(this.#form.querySelector("[data-refusal]"), false);
  }

  sending(underWay) {
    const send = this.#form.querySelector("[type=submit]");
    send.setAttribute("aria-disabled", String(underWay));
    setText(send.querySelector("[data-label]"), underWay ? "Sending…" : "Generate");
  }

  *#names() {
    yield "prompt";
    for (const name of Object.keys(NUMBERS)) {
      if (this.#fields.size.value === "custom" || !["width", "height"].includes(name)) yield name;
    }
  }

  // Puts the chosen recipe's values in, in place of the ones that the recipe before it had put in.
  #choose() {
    const fields = this.#fields;
    for (const name of Object.keys(this.#recipe?.fields ?? {})) {
      if (fields[name]) fields[name].value = defaultOf(fields[name]);
      if (name === "width") fields.size.value = "model";
      if (name === "output") fields.format.value = "png";
    }
    this.#recipe = this.#recipes.find(({ name }) => name === fields.recipe.value) ?? null;
    this.set(this.#recipe?.fields ?? {});
  }

  #setSize(width, height) {
    const named = `${width}x${height}`;
    const listed = [...this.#fields.size.options].some((option) => option.value === named);
    this.#fields.size.value = listed ? named : "custom";
    Object.assign(this.#fields.width, { value: width });
    Object.assign(this.#fields.height, { value: height });
  }

  #edited(field) {
    if (field.getAttribute("aria-invalid") === "true") this.#checkField(field.name);
    this.#shown();
    this.dispatchEvent(new Event("edit"));
  }

  // What follows from the fields for what is shown beside them.
  #shown() {
    const fields = this.#fields;
    show(this.#form.querySelector("[data-custom-size]"), fields.size.value === "custom");
    fields.steps.placeholder = `${PRESET_STEPS[fields.preset.value]}`;
    const { recipe } = fields;
    setText(this.#form.querySelector("#recipe-hint"), this.#recipe ? toldOf(this.#recipe, fields) : "");
    // A recipe's schedule can be replaced, but not taken off: the model's own is what a request says with nothing.
    fields.schedule.options[0].disabled = "schedule" in (this.#recipe?.fields ?? {});
    setText(this.#form.querySelector("[data-more]"), recipe.value || MORE.map((name) => this.#changed(name)).filter(Boolean).join(" · "));
    const used = fields.prompt.value.length;
    setText(this.#form.querySelector("[data-used]"), used > PROMPT_CHARACTERS_MAX * 0.8 ? `${used} of ${PROMPT_CHARACTERS_MAX}` : "");
    setText(this.#form.querySelector("[data-control-value]"), Number(fields.control_scale.value).toFixed(2));
    setText(this.#form.querySelector("[data-summary]"), this.#summary());
  }

  // The text of a choice that is not the default; none for numbers.
  #changed(name) {
    const field = this.#fields[name];
    return field.value !== defaultOf(field) && field.selectedOptions ? field.selectedOptions[0].text : null;
  }

  #summary() {
    const fields = this.#fields;
    const { width, height, own } = this.size;
    const steps = fields.steps.value || PRESET_STEPS[fields.preset.value];
    const parts = own ? [`${steps} steps`] : [`${width} × ${height}`, `${steps} steps`];
    parts.push(fields.seed.value === "" ? "any seed" : `seed ${fields.seed.value}`);
    if (fields.count.value !== "1") parts.push(`${fields.count.value} pictures`);
    return parts.join(" · ");
  }

  #checkField(name) {
    const wrong = name === "prompt" ? wrongPrompt(this.#fields.prompt.value) : wrongNumber(this.#fields[name].value.trim(), NUMBERS[name]);
    this.#say(name, wrong);
    return wrong === null;
  }

  #note(name) {
    return this.#form.querySelector(`#${name}-note`);
  }

  #say(name, wrong) {
    const field = this.#fields[name];
    const note = this.#note(name);
    if (!note) return;
    field.setAttribute("aria-invalid", String(wrong !== null));
    note.replaceChildren(...(wrong === null ? [] : [icon("alert"), wrong]));
  }

  #goTo(name) {
    const field = this.#fields[name];
    for (let at = field.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
    field.focus();
  }
}

function defaultOf(field) {
  if (field.options) return field.options[0].value;
  return field.type === undefined ? "fast" : field.defaultValue;
}

// What a recipe is, and what it has that no field here shows.
function toldOf({ description, fields }, shown) {
  const hidden = Object.entries(fields).filter(([name]) => !shown[name] && name !== "output");
  const also = hidden.map(([name, value]) => `${name.replaceAll("_", " ")} ${value?.name ?? JSON.stringify(value)}`);
  return [description, also.length ? `with ${also.join(", ")}` : ""].filter(Boolean).join(", ");
}

function wrongPrompt(text) {
  if (text.trim() === "") return "Say what to paint.";
  if (text.trim().length > PROMPT_CHARACTERS_MAX) return `Use at most ${PROMPT_CHARACTERS_MAX} characters; the model reads 77 tokens.`;
  return null;
}

function wrongNumber(text, { empty, whole, min, max, multiple }) {
  if (text === "") return empty ? null : "Enter a number.";
  const value = Number(text);
  if (!Number.isFinite(value)) return "Enter a number.";
  if (whole && !Number.isInteger(value)) return "Enter a whole number.";
  if (value < min || value > max) return max === SEED_MAX ? "Use 0 to 2⁵³ − 1." : `Use ${min} to ${max}.`;
  if (multiple && value % multiple) return `Use a multiple of ${multiple}.`;
  return null;
}

// The panel that says how the fleet is doing: asked for every two seconds, only while somebody sees the page.

import { fleet } from "./api.js";
import { pause, setText } from "./dom.js";
import { svgElement } from "./skeleton.js";
import { duration, fleetState } from "./wording.js";

const POLL_MS = 2000;
const POLL_AWAY_MS = 10000;
const KEPT = 60;
const WIDE = 120;
const HIGH = 28;

const FIGURES = {
  lag_records: (value) => String(value),
  completions_per_minute: (value) => (value < 10 ? value.toFixed(1) : String(Math.round(value))),
  batch_rows_mean: (value) => value.toFixed(1),
  queued_ms_p50: duration
};

export class FleetPanel {
  #root;
  #series = Object.fromEntries(Object.keys(FIGURES).map((name) => [name, []]));
  #wake = new EventTarget();
  workers = null;

  constructor(root) {
    this.#root = root;
    document.addEventListener("visibilitychange", () => this.#wake.dispatchEvent(new Event("wake")));
  }

  async run() {
    for (;;) {
      if (document.hidden) await pause(POLL_AWAY_MS, this.#wake);
      else await pause((await this.#ask()) ? POLL_MS : POLL_AWAY_MS, this.#wake);
    }
  }

  async #ask() {
    try {
      this.#show(await fleet());
      return true;
    } catch {
      this.workers = null;
      this.#note("no answer");
      return false;
    }
  }

  #note(words) {
    setText(this.#root.querySelector("[data-note]"), words);
  }

  #show(told) {
    for (const [name, write] of Object.entries(FIGURES)) {
      const value = typeof told[name] === "number" ? told[name] : null;
      const figure = this.#root.querySelector(`[data-figure=${name}]`);
      setText(figure.querySelector("[data-value]"), value === null ? "–" : write(value));
      const series = this.#series[name];
      series.push(value ?? 0);
      if (series.length > KEPT) series.shift();
      draw(figure.querySelector("svg"), series);
    }
    this.workers = typeof told.workers === "number" ? told.workers : null;
    this.#root.toggleAttribute("data-deserted", this.workers === 0);
    this.#note(fleetState(told));
  }
}

function draw(svg, series) {
  const top = Math.max(...series, 1e-9);
  const step = WIDE / (KEPT - 1);
  const from = WIDE - (series.length - 1) * step;
  const points = series.map((value, index) => `${(from + index * step).toFixed(1)},${(HIGH - 2 - (value / top) * (HIGH - 5)).toFixed(1)}`);
  svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  const area = svgElement("polygon", { class: "area", points: `${from},${HIGH} ${points.join(" ")} ${WIDE},${HIGH}` });
  svg.replaceChildren(area, svgElement("polyline", { class: "line", points: points.join(" ") }));
}

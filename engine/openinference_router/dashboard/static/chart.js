// A line chart of the last hour, as SVG: hover or arrow keys tell the values of a moment. Less than an
// hour of history gets a shorter axis.
//
// For a screen reader the plot is a slider over time whose text is what the lines show there. A
// moment without a value is a gap in the line, never a zero.

import { h, s, show } from "./dom.js";

const HEIGHT = 132;
const LEFT = 46;
const BOTTOM = 20;
const TOP = 8;
const RIGHT = 8;
const SPANS = [3, 6, 15, 30, 60];

export class Chart {
  /** `lines`: [{key, label}]; `format` turns a value into text with its unit. */
  constructor(title, lines, format) {
    this.title = title;
    this.lines = lines;
    this.format = format;
    this.history = null;
    this.moment = null;
    this.now = h("strong");
    this.svg = s("svg", { "aria-hidden": "true" });
    this.tip = h("p", { class: "tip", hidden: true });
    this.plot = h("div", {
      class: "plot",
      tabindex: 0,
      role: "slider",
      "aria-label": `${title}, the last hour`,
      "aria-valuemin": 0,
    }, this.svg, this.tip);
    this.element = h("figure", { class: "chart card", "data-own": "chart" },
      h("figcaption", {}, h("span", {}, title), this.now, this.legend()), this.plot);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** `series`: points by key, all of one length, the last one of the Unix time `end`. */
  update({ end, stepSeconds, series }) {
    this.history = { end, stepSeconds, series };
    this.draw();
  }

  legend() {
    if (this.lines.length < 2) return null;
    return h("span", { class: "legend" },
      this.lines.map(({ label }, index) => h("span", { class: `line-${index}` }, label)));
  }

  listen() {
    this.plot.addEventListener("pointermove", ({ clientX }) => {
      const { left } = this.plot.getBoundingClientRect();
      this.point((clientX - left - LEFT) / this.step);
    });
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => {
      const last = this.length - 1;
      const at = this.moment ?? last;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 60, PageDown: at + 60, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.point(to);
    });
  }

  point(index) {
    this.moment = index == null ? null : Math.max(0, Math.min(this.length - 1, Math.round(index)));
    this.draw();
  }

  points(key) {
    return this.history.series?.[key] ?? [];
  }

  draw() {
    if (!this.history) return;
    this.length = Math.max(0, ...this.lines.map(({ key }) => this.points(key).length));
    this.width = Math.max(160, this.plot.clientWidth);
    this.minutes = SPANS.find((minutes) => minutes * 60 >= (this.length - 1) * this.history.stepSeconds) ?? 60;
    const slots = Math.round((this.minutes * 60) / this.history.stepSeconds);
    this.offset = slots - this.length;
    this.step = (this.width - LEFT - RIGHT) / Math.max(1, slots - 1);
    const values = this.lines.flatMap(({ key }) => this.points(key)).filter((value) => value != null);
    const ticks = niceTicks(Math.max(0, ...values));
    this.top = ticks.at(-1);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.setAttribute("height", HEIGHT);
    show(this.svg, this.grid(ticks), this.lines.map((line, index) => this.line(line, index)), this.crosshair(),
      values.length ? null : s("text", { class: "empty", x: this.width / 2, y: HEIGHT / 2 - 6 }, "nothing measured yet"));
    this.tell();
  }

  x(index) {
    return LEFT + (index + this.offset) * this.step;
  }

  y(value) {
    return TOP + (1 - value / this.top) * (HEIGHT - TOP - BOTTOM);
  }

  grid(ticks) {
    const horizontal = ticks.map((tick) => [
      s("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(tick), y2: this.y(tick) }),
      s("text", { class: "tick", x: LEFT - 6, y: this.y(tick) + 4, "text-anchor": "end" }, this.format(tick)),
    ]);
    const vertical = [1, 2 / 3, 1 / 3, 0].map((share) =>
      s("text", {
        class: "tick",
        x: LEFT + (1 - share) * (this.width - LEFT - RIGHT),
        y: HEIGHT - 4,
        "text-anchor": share === 1 ? "start" : share === 0 ? "end" : "middle",
      }, share ? `−${Math.round(share * this.minutes)} min` : "now"));
    return [...horizontal, ...vertical];
  }

  line({ key }, index) {
    const runs = this.runs(key);
    const spell = (run) => run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    const floor = this.y(0);
    const area = runs.map((run) => `M${run[0][0]},${floor}L${spell(run)}L${run.at(-1)[0]},${floor}Z`).join("");
    // A lone moment is a line of no length, which round caps make a dot.
    const path = runs.map((run) => `M${spell(run.length > 1 ? run : [run[0], run[0]])}`).join("");
    return s("g", { class: `line-${index}` },
      index === 0 ? s("path", { class: "area", d: area }) : null, s("path", { class: "stroke", d: path }));
  }

  /** Stretches of moments that have a value, as places on the plot. */
  runs(key) {
    const runs = [];
    let run = null;
    this.points(key).forEach((value, index) => {
      if (value == null) run = null;
      else {
        if (!run) runs.push((run = []));
        run.push([this.x(index), this.y(value)]);
      }
    });
    return runs;
  }

  crosshair() {
    if (this.moment == null) return null;
    const x = this.x(this.moment);
    return s("g", { class: "crosshair" },
      s("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
      this.lines.map(({ key }, index) => {
        const value = this.points(key)[this.moment];
        return value == null ? null : s("circle", { class: `line-${index}`, cx: x, cy: this.y(value), r: 3.5 });
      }));
  }

  tell() {
    const last = this.length - 1;
    const said = this.said(this.moment ?? last);
    this.now.textContent = this.format(this.points(this.lines[0].key)[last]);
    this.plot.setAttribute("aria-valuemax", Math.max(0, last));
    this.plot.setAttribute("aria-valuenow", Math.max(0, this.moment ?? last));
    this.plot.setAttribute("aria-valuetext", said);
    this.tip.hidden = this.moment == null;
    if (this.moment == null) return;
    this.tip.textContent = said;
    const x = this.x(this.moment);
    this.tip.style.insetInlineStart = `${Math.min(Math.max(x, 70), this.width - 70)}px`;
  }

  said(index) {
    const seconds = (this.length - 1 - index) * this.history.stepSeconds;
    const when = new Date((this.history.end - seconds) * 1000).toLocaleTimeString([], { timeStyle: "medium" });
    const values = this.lines.map(({ key, label }) =>
      `${this.lines.length > 1 ? `${label} ` : ""}${this.format(this.points(key)[index])}`);
    return `${when}: ${values.join(", ")}`;
  }
}

/** A small line without axes. */
export function sparkline(points, width = 88, height = 24) {
  const known = points.filter((value) => value != null);
  const top = Math.max(1e-9, ...known);
  const step = width / Math.max(1, points.length - 1);
  const places = points.map((value, index) =>
    `${(index * step).toFixed(1)},${(height - 2 - ((value ?? 0) / top) * (height - 4)).toFixed(1)}`);
  const box = { viewBox: `0 0 ${width} ${height}`, height, preserveAspectRatio: "none" };
  return s("svg", { class: "sparkline line-0", ...box, "aria-hidden": "true" },
    known.length > 1 ? s("path", { class: "stroke", d: `M${places.join("L")}` }) : null);
}

/** Round values from 0 to at least `top`, three or four steps apart. */
function niceTicks(top) {
  if (!(top > 0)) return [0, 1];
  const rough = top / 3;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, index) => index * step);
}

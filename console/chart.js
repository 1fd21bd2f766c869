// Entries over time as stacked bars. A click narrows to one bar, dragging to several.
import { count, make } from "./dom.js";
import { SEVERITIES, milliseconds } from "./view.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 120;
const BOTTOM = 18;
const TOP = 6;
/** Room for the numbers beside the bars. */
const LEFT = 44;
const WIDEST_BAR = 64;

const node = (tag, attributes) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const short = (n) => (n >= 1e6 ? `${+(n / 1e6).toPrecision(3)} M` : n >= 1e4 ? `${+(n / 1e3).toPrecision(3)} k` : count(n));

export class Chart {
  #bars = [];
  #interval = "1m";
  #drag = null;

  /** `narrow(from, to)` is called with milliseconds. */
  constructor(holder, narrow) {
    this.holder = holder;
    this.svg = node("svg", { role: "img", height: HEIGHT });
    this.tip = make("div", { class: "tip", hidden: true });
    this.holder.append(this.svg, this.tip);
    new ResizeObserver(() => this.#draw()).observe(holder);
    this.svg.addEventListener("pointerdown", (event) => {
      this.#drag = this.#at(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", (event) => this.#point(this.#at(event)));
    this.svg.addEventListener("pointerleave", () => this.#point(-1));
    this.svg.addEventListener("pointerup", (event) => {
      const [a, b] = [this.#drag, this.#at(event)].sort((x, y) => x - y);
      this.#drag = null;
      if (a !== null && a >= 0 && this.#bars[b]) narrow(this.#bars[a].start, this.#bars[b].end);
    });
  }

  show(series, interval) {
    this.#interval = interval;
    const starts = series.map((bucket) => Date.parse(bucket.start));
    const width = interval === "1M" ? 30 * 86400e3 : milliseconds(interval);
    this.#bars = series.map((bucket, i) => ({
      start: starts[i],
      end: starts[i + 1] ?? starts[i] + width,
      counts: SEVERITIES.map((severity) => Number(bucket.by_severity?.[severity] ?? 0)),
      count: Number(bucket.count),
    }));
    this.#draw();
  }

  #at(event) {
    const box = this.svg.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT)) * this.#bars.length);
    return Math.max(0, Math.min(at, this.#bars.length - 1));
  }

  #label(ms, whole = false) {
    const text = new Date(ms).toISOString();
    if (whole) return text.slice(0, 19).replace("T", " ");
    if (/[dwM]$/.test(this.#interval)) return text.slice(0, 10);
    const days = this.#bars.length > 1 && this.#bars.at(-1).end - this.#bars[0].start > 86400e3;
    return days ? text.slice(5, 16).replace("T", " ") : text.slice(11, this.#interval.endsWith("s") ? 19 : 16);
  }

  #draw() {
    const width = this.holder.clientWidth;
    const bars = this.#bars;
    if (!width) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const most = Math.max(1, ...bars.map((bar) => bar.count));
    const step = (width - LEFT) / Math.max(1, bars.length);
    const scale = (HEIGHT - BOTTOM - TOP) / most;
    const nodes = [];
    for (const part of [0.5, 1]) {
      const y = HEIGHT - BOTTOM - most * part * scale;
      nodes.push(node("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }));
      const label = node("text", { class: "tick", x: LEFT - 6, y: y + 4, "text-anchor": "end" });
      label.textContent = short(most * part);
      if (bars.length && Number.isInteger(most * part)) nodes.push(label);
    }
    bars.forEach((bar, i) => {
      let y = HEIGHT - BOTTOM;
      bar.counts.forEach((n, severity) => {
        if (!n) return;
        const height = Math.max(1, n * scale);
        y -= height;
        const wide = Math.min(WIDEST_BAR, Math.max(0.5, step - Math.min(2, step / 4)));
        nodes.push(node("rect", { class: SEVERITIES[severity], x: LEFT + (i + 0.5) * step - wide / 2, width: wide, y, height }));
      });
    });
    nodes.push(node("line", { class: "axis", x1: LEFT, x2: width, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    const every = Math.max(1, Math.ceil(bars.length / Math.max(1, Math.floor(width / 110))));
    bars.forEach((bar, i) => {
      const x = LEFT + i * step;
      if (i % every || x > width - 60) return;
      const label = node("text", { class: "tick", x, y: HEIGHT - 4 });
      label.textContent = this.#label(bar.start);
      nodes.push(label);
    });
    this.cursor = node("rect", { class: "cursor", x: 0, y: 0, width: 0, height: HEIGHT - BOTTOM });
    this.svg.replaceChildren(...nodes, this.cursor);
    const total = bars.reduce((sum, bar) => sum + bar.count, 0);
    const about = bars.length ? `, from ${this.#label(bars[0].start, true)} to ${this.#label(bars.at(-1).end, true)} UTC, at most ${count(most)} in ${this.#interval}` : "";
    this.svg.setAttribute("aria-label", `${count(total)} entries over time${about}. Click or drag to narrow the time range.`);
  }

  #point(at) {
    const bar = this.#bars[at];
    this.tip.hidden = !bar;
    if (!bar) return this.cursor?.setAttribute("width", 0);
    const width = this.holder.clientWidth;
    const step = (width - LEFT) / this.#bars.length;
    const [a, b] = [this.#drag ?? at, at].sort((x, y) => x - y);
    this.cursor.setAttribute("x", LEFT + a * step);
    this.cursor.setAttribute("width", (b - a + 1) * step);
    const chosen = this.#bars.slice(a, b + 1);
    const lines = SEVERITIES.map((severity, i) => [severity, chosen.reduce((sum, one) => sum + one.counts[i], 0)]).filter(([, n]) => n);
    this.tip.replaceChildren(
      make("b", {}, `${this.#label(chosen[0].start, true)} – ${this.#label(chosen.at(-1).end, true).slice(11)}`),
      ...lines.map(([severity, n]) => make("div", { class: `sevtext ${severity}` }, `${severity} ${count(n)}`)),
      ...(lines.length ? [] : [make("div", { class: "dim" }, "no entries")]),
    );
    this.tip.style.left = `${Math.min(Math.max(0, LEFT + (at + 0.5) * step - 90), Math.max(0, width - 190))}px`;
  }
}

// Figures 6b-6d and the labels' shares, live: `mountPanel(element, host)`.
//
// host.meta               {title, models, temperatures, allowed, bins, kinds, rule, ranks, ...}
// host.block              the bytes of the positions
// host.settings           the decoding to begin with
// host.onChange(settings) told after every change
//
// -> {show(settings), destroy()}

import { decode } from "./block.js";
import { bars, lines } from "./charts.js";
import { binsOf, point, rowsOf, summary } from "./curves.js";
import { button, digits, h } from "./elements.js";
import { describe } from "./math.js";
import { follow } from "./surroundings.js";

const BUDGET = 25; // ms of work between frames
const frame = () => new Promise(requestAnimationFrame);

export const mountPanel = (element, host) => new Panel(element, host);

class Panel {
  constructor(element, host) {
    const { meta } = host, block = decode(host.block, meta.vocabulary);
    Object.assign(this, { element, host, meta, sides: [block.base, block.other].filter(Boolean) });
    this.rows = rowsOf(this.sides);
    this.bins = meta.ranks < 20 ? null : binsOf(this.sides[0], this.rows, meta.allowed);
    this.known = new Map(); // curves by top-k and top-p
    this.figures = h("div", { class: "figures" });
    this.notice = h("p", { class: "notice", role: "status" });
    element.classList.add("ssd-viewer", "panel");
    element.replaceChildren(
      h("header", {}, h("h1", {}, meta.title), ...meta.notes.map((note) => h("p", { class: "notice" }, note))),
      h("div", { class: "bar-top" }, this.controls(), this.legend()), this.notice, this.figures);
    this.unfollow = follow(element, true);
    this.show(host.settings);
  }

  controls() {
    const { temperatures, ranks } = this.meta;
    this.inputs = {};
    const slider = (name, text, min, max, step) => {
      const says = h("output", {}), input = h("input", { type: "range", min, max, step, oninput: () => this.change(name, Number(input.value)) });
      this.inputs[name] = { input, says };
      return h("label", {}, h("span", {}, text), input, says);
    };
    return h("fieldset", {}, h("legend", {}, "Decoding"),
      slider("temperature", "T", temperatures[0], temperatures.at(-1), 0.05),
      slider("topK", "top-k", 1, ranks + 1, 1), slider("topP", "top-p", 0.01, 1, 0.01),
      button("Reset", `Back to ${describe(this.meta.decoding)}`, () => this.change()));
  }

  legend() {
    return h("ul", { class: "legend", "aria-label": "Models" }, ...this.sides.map((_, i) =>
      h("li", {}, h("span", { class: `key of-${i}` }), this.sides.length > 1 ? `${this.nameOf(i)}: ${this.meta.models[i]}` : this.nameOf(i))));
  }

  change(name, value) {
    const settings = name ? { ...this.settings, [name]: name === "topK" && value > this.meta.ranks ? 0 : value } : { ...this.meta.decoding };
    this.show(settings);
    this.host.onChange?.(settings);
  }

  show(settings) {
    this.settings = settings;
    const shown = { ...settings, topK: settings.topK || this.meta.ranks + 1 };
    const words = { temperature: settings.temperature, topK: settings.topK || "off", topP: settings.topP === 1 ? "off" : settings.topP };
    for (const [name, { input, says }] of Object.entries(this.inputs)) {
      input.value = shown[name];
      input.setAttribute("aria-valuetext", String(words[name]));
      says.textContent = String(words[name]);
    }
    this.painting ??= frame().then(() => {
      this.painting = null;
      this.paint();
    });
    this.refresh();
  }

  // The curves of what is set, and again of what was set meanwhile; the page stays awake.
  async refresh() {
    if (this.working) return;
    this.working = true;
    const keyOf = ({ topK, topP }) => `${topK} ${topP}`; // they do not depend on T
    while (keyOf(this.settings) !== this.key && !this.ended) {
      const { settings } = this, key = keyOf(settings);
      if (!this.known.has(key)) this.known.set(key, await this.curvesOf(settings));
      Object.assign(this, { key, curves: this.known.get(key) });
      this.paint();
    }
    this.working = false;
  }

  // A side's `point` at each temperature.
  async curvesOf(settings) {
    const found = this.sides.map(() => []);
    let began = performance.now();
    for (const temperature of this.meta.temperatures) {
      this.sides.forEach((side, i) => found[i].push(point(side, this.rows, { ...settings, temperature })));
      if (performance.now() - began < BUDGET) continue;
      await frame();
      began = performance.now();
    }
    return found;
  }

  paint() {
    if (!this.curves || this.ended) return;
    const { meta, settings, curves } = this, { temperatures, bins } = meta, none = new Uint8Array(this.rows.length);
    const here = this.sides.map((side) => summary(side, this.rows, settings, meta.rule, this.bins ?? none, bins.length));
    const series = (name) => curves.map((points, i) => ({ name: this.nameOf(i), values: points.map((p) => p[name]), exact: points.map((p) => p.exact) }));
    const sizes = here[0].byBin.map((bin) => `n=${bin.positions.toLocaleString("en")}`);
    this.figures.replaceChildren(
      lines("6b: mean surviving tokens", temperatures, series("survivors"), settings.temperature),
      lines("6c: mean entropy after truncation, nats", temperatures, series("entropy"), settings.temperature),
      this.bins ? bars("6d: mean entropy after truncation, nats", bins, sizes, here.map((found, i) => ({ name: this.nameOf(i), values: found.byBin.map((bin) => bin.entropy) })))
        : h("p", {}, `Figure 6d needs 20 ranks, the probe keeps ${meta.ranks}.`),
      this.shares(here), this.table(here));
    const inexact = Math.max(...here.map((found) => found.inexact)), hollow = curves.flat().some((p) => !p.exact);
    this.notice.textContent = [
      inexact ? `${describe(settings)} may keep tokens beyond the ${meta.ranks} stored ranks at ${inexact} of ${this.rows.length} positions: there the least is counted.` : "",
      hollow ? "Hollow marks: that is more than 1 % of the positions, and the mean a lower bound." : ""].join(" ").trim();
  }

  nameOf = (i) => (this.sides.length > 1 ? ["before", "after"][i] : this.meta.models[0]);

  shares(here) {
    const { kinds } = this.meta, share = (found, kind) => (found.labels[kind] ?? 0) / this.rows.length;
    const strip = (found, i) => h("div", { class: "shares" }, h("span", { class: "who" }, this.nameOf(i)),
      h("div", { class: "strip-of", "aria-hidden": "true" }, ...kinds.map((kind) => {
        const part = h("span", { class: `k-${kind}`, title: kind }, share(found, kind) > 0.12 ? kind : "");
        part.style.width = `${100 * share(found, kind)}%`;
        return part;
      })));
    return h("figure", {}, h("figcaption", {}, "shares of the labels"), ...here.map(strip),
      h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "label"), ...here.map((_, i) => h("th", { scope: "col" }, this.nameOf(i))))),
        h("tbody", {}, ...kinds.map((kind) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: `tag k-${kind}` }, kind)),
          ...here.map((found) => h("td", {}, `${(100 * share(found, kind)).toFixed(1)} %`, h("small", {}, ` (${(found.labels[kind] ?? 0).toLocaleString("en")})`))))))));
  }

  table(here) {
    const row = (name, key) => h("tr", {}, h("th", { scope: "row" }, name), ...here.map((found) =>
      h("td", {}, `${found.exact ? "" : "≥ "}${digits(found[key])}`)));
    return h("table", { class: "numbers" }, h("caption", {}, `${describe(this.settings)}, means over ${this.rows.length.toLocaleString("en")} positions`),
      h("thead", {}, h("tr", {}, h("td"), ...here.map((_, i) => h("th", { scope: "col" }, this.nameOf(i))))),
      h("tbody", {}, row("surviving tokens", "survivors"), row("entropy, nats", "entropy")));
  }

  destroy() {
    this.ended = true;
    this.unfollow();
    this.element.replaceChildren();
  }
}

// The token viewer: `mount(element, host)`.
//
// host.meta              what all texts share (`views/page.py: Meta`)
// host.block(i)          -> Promise<Uint8Array>, the block of text i
// host.start             {text, position} to open at, or nothing
// host.onSelect(found)   told {text, position, token, first, last} after every selection; the last
//                        two are the positions at its ends
// host.inNotebook        whether others may be on the page, and its theme is the notebook's
//
// -> Promise of {show({text, position, first}), focus(), destroy()}

import { decode } from "./block.js";
import { metricsOf, paint } from "./colours.js";
import { details, tokenOf } from "./details.js";
import { button, choice, digits, h, labelled } from "./elements.js";
import { Lines } from "./lines.js";
import { describe, measure } from "./math.js";
import { follow } from "./surroundings.js";

const STRONG = ["s0", "k-neither", "k-lock", "s1", "m1", "p1", "k-open", "s2", "m2", "p2", "k-fork", "s3", "s4", "m3", "p3", "bad"];
const KEYS = [
  ["← →", "token before, after"], ["↑ ↓, Page", "row, page"], ["Home End", "first, last token"],
  ["Shift + those", "select several, as Shift + click"], ["f F", "next, previous fork"], ["o O", "next, previous open position"],
  ["l L", "next largest, the one before"], ["/", "search"], ["n N", "next, previous match"],
  ["[ ]", "text before, after"], ["a", "all stored ranks"], ["Esc", "back to the text; in the search: ends it"],
];
// Settings: what each is called, what it may be, as in Python, and that in words.
const SETTINGS = {
  temperature: ["T", (x) => x >= 0, "T must be a number, 0 or above", { min: 0, step: 0.1 }],
  topK: ["top-k", (x) => x >= 0 && Number.isInteger(x), "top-k must be a whole number, 0 (off) or above", { min: 0, step: 1 }],
  topP: ["top-p", (x) => x > 0 && x <= 1, "top-p must be above 0, up to 1 (off)", { min: 0, max: 1, step: 0.05 }],
  minP: ["min-p", (x) => x >= 0 && x <= 1, "min-p must be from 0 (off) to 1", { min: 0, max: 1, step: 0.01 }],
};

export async function mount(element, host) {
  const viewer = new Viewer(element, host);
  const wanted = host.start ?? {};
  if (!host.meta.texts.some((text) => text.name === wanted.text)) await viewer.open(0);
  await viewer.show(wanted);
  return viewer;
}

let viewers = 0; // on this page
const asked = (written) => (written === "" ? '""' : written); // of an address
const short = (name) => (name.length > 44 ? `…${name.slice(-43)}` : name); // its end, where files differ

class Viewer {
  constructor(element, host) {
    Object.assign(this, { host, meta: host.meta, text: -1, selected: 0, anchor: 0, previewed: null, hits: [], all: false });
    this.decoding = { ...this.meta.decoding };
    this.follows = describe(this.meta.decoding) === describe(this.meta.labelling); // the labels do
    this.prefix = viewers++ ? `viewer-${viewers}-` : ""; // of ids
    this.colour = "label";
    this.model = 0;
    this.filter = { label: "", segment: "", syntax: "" };
    this.lines = new Lines({
      classes: (i) => this.classesOf(i), colour: (i) => (this.passes[i] ? this.painted.classes[i] : null),
      says: (i) => this.says(i), selected: () => this.selected, order: STRONG,
      prefix: this.prefix,
    }, { select: (i, extend) => this.select(i, true, extend), preview: (i) => this.preview(i) });
    this.build(element);
  }

  build(element) {
    this.element = element;
    this.texts = choice(this.meta.texts.map((text, i) => [i, `${short(text.name)} (${text.rows})`]), (i) => this.open(Number(i)));
    this.colours = h("span", {});
    this.legend = h("ul", { class: "legend", "aria-label": "Legend" });
    this.filters = h("span", { class: "group" });
    this.notice = h("p", { class: "notice", role: "status" });
    this.printed = h("p", { class: "printed" }); // in the place of the controls
    this.spoken = h("p", { class: "unseen", "aria-live": "polite" });
    this.panel = h("section", { class: "details", "aria-label": "Position", tabindex: "0" });
    this.found = h("span", { class: "found", role: "status" });
    this.search = h("input", { type: "search", size: 12, oninput: () => this.find(this.search.value) });
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.step(this.hits, event.shiftKey ? -1 : 1);
    });
    const pair = this.meta.models.length > 1;
    element.classList.add("ssd-viewer");
    this.unfollow = follow(element, this.host.inNotebook);
    element.replaceChildren(
      h("header", {}, h("h1", {}, this.meta.title), ...this.meta.notes.map((note) => h("p", { class: "notice" }, note)), this.printed),
      h("div", { class: "bar-top", role: "group", "aria-label": "What is shown" },
        labelled("Text", this.texts), button("‹", "Text before ([)", () => this.open(this.text - 1)),
        button("›", "Text after (])", () => this.open(this.text + 1)),
        pair ? labelled("Model", choice([[0, "before"], [1, "after"]], (i) => this.side(Number(i)))) : null,
        this.colours, this.legend),
      h("details", { class: "tools", open: !element.classList.contains("narrow") }, h("summary", {}, "Decoding, search, filter"),
        h("div", { class: "bar-top" }, this.settings(), this.goTo(), this.filters)),
      this.notice, this.spoken,
      h("main", {}, this.lines.element, this.panel),
      h("details", { class: "keys" }, h("summary", {}, "Keys"),
        h("dl", {}, ...KEYS.flatMap(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]))),
      h("details", { class: "keys words" }, h("summary", {}, "Words"),
        h("dl", {}, ...Object.entries(this.meta.terms).flatMap(([word, what]) => [h("dt", {}, word), h("dd", {}, what)]))));
    this.onKey = (event) => this.key(event);
    element.addEventListener("keydown", this.onKey);
  }

  settings() {
    this.inputs = {};
    this.refusal = h("p", { class: "notice", role: "alert", id: `${this.prefix}refusal` });
    const fields = Object.entries(SETTINGS).map(([name, [text, , , range]]) => {
      const input = h("input", { type: "number", ...range, value: this.decoding[name], oninput: () => this.decode(name) });
      this.inputs[name] = input;
      return labelled(text, input);
    });
    return h("fieldset", {}, h("legend", {}, "Decoding"), ...fields,
      this.follows ? null : this.labelsToo(),
      button("Reset", `Back to ${describe(this.meta.decoding)}`, () => this.reset()), this.refusal);
  }

  // Where a page opens at another decoding than its labels are by: whether they are by what is set.
  labelsToo() {
    const box = h("input", { type: "checkbox", onchange: () => (this.follows = box.checked, this.remeasure()) });
    const title = `Else they stay those of ${describe(this.meta.labelling)}, as in the tables`;
    return h("label", { title }, box, h("span", {}, "labels too"));
  }

  goTo() {
    return h("span", { class: "group" },
      button("‹ fork", "Previous fork (F)", () => this.step(this.kind("fork"), -1)),
      button("fork ›", "Next fork (f)", () => this.step(this.kind("fork"), 1)),
      button("largest ›", "The next largest in this text of what is coloured; for labels: of change, or entropy (l)", () => this.largest(1)),
      labelled("Find", this.search), button("‹", "Previous match (N)", () => this.step(this.hits, -1)),
      button("›", "Next match (n)", () => this.step(this.hits, 1)), this.found);
  }

  // The last of several wins, whichever block comes first.
  async open(index, position = null, first = position) {
    if (index < 0 || index >= this.meta.texts.length) return;
    const opening = (this.opening = Symbol(index));
    const block = index === this.text ? this.block : decode(await this.host.block(index), this.meta.vocabulary);
    if (opening !== this.opening) return;
    const changed = index !== this.text;
    Object.assign(this, { text: index, block, previewed: null });
    this.texts.value = index;
    if (changed) {
      this.strings = Array.from(block.token, (t, i) => this.string(block.texts[t], block.token_id[i]));
      this.special = new Set(this.meta.special);
      this.sides = [block.base, block.other].filter(Boolean);
      this.offer();
      this.measure();
      this.search.value = "";
      this.find("", false);
      this.lines.set(this.strings);
    }
    const at = position === null ? 0 : block.position.indexOf(position);
    const anchor = first === position ? at : block.position.indexOf(first);
    if (anchor >= 0) this.anchor = anchor;
    this.select(Math.max(at, 0), position !== null, anchor >= 0);
    if (at < 0) this.warn(`no position ${asked(position)} in this text`);
  }

  // A token's text; of a part of a character its bytes.
  string(text, id) {
    return this.meta.partial[id] === undefined || !text.includes("\ufffd") && text !== "" ? text : tokenOf({ names: this.meta }, id);
  }

  // What this text can be coloured and filtered by.
  offer() {
    const metrics = metricsOf(this.block);
    if (!metrics.some((each) => each.key === this.colour)) this.colour = "label";
    this.metrics = Object.fromEntries(metrics.map((each) => [each.key, each]));
    this.colours.replaceChildren(labelled("Colour", choice(metrics.map((each) => [each.key, each.name]),
      (key) => (this.colour = key, this.repaint()), this.colour)));
    const any = (name, items) => {
      if (!items.includes(this.filter[name])) this.filter[name] = "";
      return labelled(name, choice([["", "all"], ...items.map((each) => [each, each])],
        (value) => (this.filter[name] = value, this.repaint()), this.filter[name]));
    };
    const named = (list) => list.filter(Boolean).sort();
    this.filters.replaceChildren(h("span", {}, "Only"), any("label", this.meta.kinds),
      any("segment", named(this.block.segments)), any("syntax", named(this.block.syntaxes)));
  }

  measure() {
    this.measured = this.sides.map((side) => measure(side, this.decoding, this.meta.rule));
    if (!this.follows) this.measured.forEach((found, i) => {
      found.label = measure(this.sides[i], this.meta.labelling, this.meta.rule).label;
    });
    const { inexact } = this.measured[this.model];
    this.bound = inexact
      ? `${describe(this.decoding)} may keep tokens beyond the ${this.block.ranks} stored ranks at ${inexact} of ${this.block.rows} positions: labels and colours there are of the least support, and the panel gives bounds.`
      : "";
    this.colourIn();
  }

  colourIn() {
    const metric = this.metrics[this.colour], found = this.measured[this.model];
    const marking = describe(this.follows || metric.key !== "label" ? this.decoding : this.meta.labelling);
    this.values = metric.values?.(this.block, this.sides[this.model], found);
    this.painted = paint(metric, this.values, found.label);
    this.legend.replaceChildren(h("li", { class: "hint" }, metric.key === "label" ? `${metric.hint} at ${marking}` : metric.hint),
      ...this.painted.legend.map(({ className, text, count }) =>
        h("li", {}, h("span", { class: `swatch ${className}` }, "ab"), ` ${text} `, h("small", {}, `(${count})`))));
    const { label, segment, syntax } = this.filter, { block } = this, only = [label, segment, syntax].filter(Boolean);
    this.printed.textContent = `${this.meta.texts[this.text].name}, coloured by ${metric.name}${this.sides.length > 1 ? ` of the model ${["before", "after"][this.model]}` : ""}`
      + ` at ${marking}${only.length ? `, only ${only.join(", ")}` : ""}`;
    const [s, x] = [block.segments.indexOf(segment), block.syntaxes.indexOf(syntax)];
    this.passes = new Uint8Array(block.rows);
    for (let i = 0; i < block.rows; i++)
      this.passes[i] = (!label || found.label[i] === label) && (!segment || block.segment[i] === s) && (!syntax || block.syntax[i] === x);
    this.none = only.length && !this.passes.includes(1) ? `No position of this text is ${only.join(", ")}.` : "";
    this.warn();
  }

  // The notice; `lost`: that an address led nowhere, which stands until something is selected.
  warn(lost = this.lost) {
    this.lost = lost;
    this.notice.textContent = [lost, [this.bound, this.none].filter(Boolean).join(" ")].filter(Boolean).join(". ");
  }

  repaint() {
    this.colourIn();
    this.lines.paint();
    this.tell();
  }

  decode(name) {
    this.refuse();
    if (!this.allowed(name)) return;
    this.decoding = { ...this.decoding, [name]: this.inputs[name].valueAsNumber };
    this.remeasure();
  }

  allowed(name) {
    const value = this.inputs[name].valueAsNumber;
    return Number.isFinite(value) && SETTINGS[name][1](value);
  }

  // Marks the fields whose settings are not taken, and says what these may be.
  refuse() {
    const bad = Object.keys(SETTINGS).filter((name) => !this.allowed(name));
    for (const [name, input] of Object.entries(this.inputs)) {
      input.setAttribute("aria-invalid", String(bad.includes(name)));
      input.setAttribute("aria-describedby", bad.includes(name) ? this.refusal.id : "");
    }
    this.refusal.textContent = bad.map((name) => SETTINGS[name][2]).join("; ");
  }

  remeasure() {
    this.measure();
    this.lines.paint();
    this.tell();
  }

  reset() {
    for (const [name, input] of Object.entries(this.inputs)) input.value = this.meta.decoding[name];
    this.decoding = { ...this.meta.decoding };
    this.refuse();
    this.remeasure();
  }

  side(index) {
    this.model = index;
    this.measure();
    this.lines.paint();
  }

  classesOf(i) {
    const names = [this.passes[i] ? this.painted.classes[i] : "out"];
    if (this.special.has(this.block.token_id[i]) || this.block.segments[this.block.segment[i]] === "special") names.push("special");
    if (this.meta.partial[this.block.token_id[i]] !== undefined) names.push("partial");
    if (i === this.selected) names.push("selected");
    else if (i >= Math.min(this.anchor, this.selected) && i <= Math.max(this.anchor, this.selected)) names.push("chosen");
    if (this.isHit?.[i]) names.push("hit");
    return names.join(" ");
  }

  says(i) {
    const kind = this.measured[this.model].label[i];
    return this.values ? `${kind}, ${this.metrics[this.colour].name} ${digits(this.values[i])}` : kind;
  }

  // A token; with `extend` all from the one before, which stays the other end.
  select(i, told = true, extend = false) {
    this.selected = i;
    if (!extend) this.anchor = i;
    this.previewed = null;
    if (this.lost) this.warn("");
    this.lines.reveal(i);
    this.tell();
    const { position } = this.block, [first, last] = [Math.min(i, this.anchor), Math.max(i, this.anchor)];
    this.spoken.textContent = `position ${position[i]}, ${this.says(i)}${first < last ? `; ${last - first + 1} selected` : ""}`;
    if (told) this.host.onSelect?.({ text: this.meta.texts[this.text].name, position: position[i], token: this.block.token_id[i], first: position[first], last: position[last] });
  }

  preview(i) {
    if (i === this.previewed) return;
    this.previewed = i;
    this.tell();
  }

  tell() {
    this.panel.replaceChildren(...details({
      block: this.block, row: this.previewed ?? this.selected, decoding: this.decoding, names: this.meta, all: this.all,
      sides: this.sides.map((side, i) => ({ name: this.meta.models[i], side, measured: this.measured[i] })),
    }), button(this.all ? "leading tokens only (a)" : "all stored ranks (a)", "", () => this.toggle()));
  }

  toggle() {
    this.all = !this.all;
    this.tell();
  }

  kind = (name) => [...this.measured[this.model].label.keys()].filter((i) => this.measured[this.model].label[i] === name && this.passes[i]);

  // To the next of these positions, in the text's order, round its end.
  step(list, by) {
    if (!list.length) return void (this.spoken.textContent = "none here");
    const after = list.findIndex((i) => i > this.selected), before = list.findLastIndex((i) => i < this.selected);
    const at = by > 0 ? after : before;
    this.select(list[at < 0 ? (by > 0 ? 0 : list.length - 1) : at]);
  }

  // Through positions by size of what is coloured, largest first.
  largest(by) {
    const key = this.values ? this.colour : this.metrics.kl ? "kl" : this.metrics.change ? "change" : "entropy";
    const metric = this.metrics[key];
    const values = metric.values(this.block, this.sides[this.model], this.measured[this.model]);
    const size = (x) => (metric.signed ? Math.abs(x) : metric.reverse ? -x : x);
    const order = [...values.keys()].filter((i) => Number.isFinite(values[i]) && this.passes[i]).sort((a, b) => size(values[b]) - size(values[a]) || a - b);
    if (!order.length) return;
    const at = order.indexOf(this.selected), list = `${this.text} ${key} ${this.model}`;
    const next = this.ranking === list && at >= 0 ? (at + by + order.length) % order.length : 0;
    this.ranking = list;
    this.select(order[next]);
    this.spoken.textContent = `number ${next + 1} by ${metric.name}: ${digits(values[order[next]])}`;
  }

  // Tokens that a text lies in, over their borders too.
  find(wanted, go = true) {
    const needle = wanted.toLowerCase(), starts = [];
    let joined = "";
    if (needle) for (const text of this.strings) starts.push(joined.length), joined += text.toLowerCase();
    this.hits = [];
    this.isHit = needle ? new Uint8Array(this.block.rows) : null;
    let token = 0;
    for (let at = needle ? joined.indexOf(needle) : -1; at >= 0; at = joined.indexOf(needle, at + 1)) {
      while (token + 1 < starts.length && starts[token + 1] <= at) token++;
      if (this.hits.at(-1) !== token) this.hits.push(token);
      for (let i = token; i < starts.length && starts[i] < at + needle.length; i++) this.isHit[i] = 1;
    }
    this.found.textContent = needle ? `${this.hits.length} found` : "";
    if (this.hits.length && go) this.select(this.hits.find((i) => i >= this.selected) ?? this.hits[0]);
    else if (go) this.lines.paint();
  }

  key(event) {
    const typing = event.target.matches("input, select");
    if (event.key === "Escape") {
      if (event.target === this.search) this.find(this.search.value = "");
      return this.lines.box.focus();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.lines.box.clientHeight / this.lines.height) - 2), last = this.block.rows - 1;
    const go = (i) => this.select(i, true, event.shiftKey);
    const moves = event.target === this.lines.box && {
      ArrowRight: () => go(Math.min(this.selected + 1, last)),
      ArrowLeft: () => go(Math.max(this.selected - 1, 0)),
      ArrowDown: () => go(this.lines.beside(this.selected, 1)),
      ArrowUp: () => go(this.lines.beside(this.selected, -1)),
      PageDown: () => go(this.lines.beside(this.selected, page)),
      PageUp: () => go(this.lines.beside(this.selected, -page)),
      Home: () => go(0), End: () => go(last),
    }[event.key];
    const letters = {
      f: () => this.step(this.kind("fork"), 1), F: () => this.step(this.kind("fork"), -1),
      o: () => this.step(this.kind("open"), 1), O: () => this.step(this.kind("open"), -1),
      l: () => this.largest(1), L: () => this.largest(-1), n: () => this.step(this.hits, 1), N: () => this.step(this.hits, -1),
      "[": () => this.open(this.text - 1), "]": () => this.open(this.text + 1),
      a: () => this.toggle(), "/": () => this.search.focus(),
    }[event.key];
    const act = moves || letters;
    if (!act) return;
    event.preventDefault();
    act();
  }

  show({ text, position, first }) {
    const index = this.meta.texts.findIndex((each) => each.name === text);
    if (index >= 0) return this.open(index, position, first);
    if (typeof text === "string") this.warn(`no text ${asked(text)} in this file`);
  }

  focus() {
    this.lines.box.focus({ preventScroll: true });
  }

  destroy() {
    this.unfollow();
    this.lines.destroy();
    this.element.removeEventListener("keydown", this.onKey);
    this.element.replaceChildren();
  }
}

// The text as rows of equal height, of which only those in sight are in the document.

import { h } from "./elements.js";
import { layout, oneLine } from "./layout.js";

const SPARE = 25; // rows kept ready above and below
const PRINTED = 4000; // rows at most on paper

// `look` says of a token its classes, and what ids begin with; `on.select(i, extend)`, `on.preview(i)`
// get a token's index.
export class Lines {
  constructor(look, on) {
    this.look = look;
    this.from = this.to = 0;
    this.canvas = h("div", { class: "rows", role: "none" });
    this.box = h("div", { class: "lines", role: "listbox", tabindex: "0", "aria-label": "Tokens of the text" }, this.canvas);
    this.strip = h("canvas", { class: "strip", "aria-hidden": "true" });
    this.element = h("div", { class: "text" }, this.box, this.strip);
    this.ruler = h("span", { class: "ruler", "aria-hidden": "true" }, "0".repeat(100));
    this.box.append(this.ruler);
    const indexOf = (event) => event.target.closest?.("[data-i]")?.dataset.i;
    const tell = (event, what) => indexOf(event) !== undefined && what(Number(indexOf(event)), event.shiftKey);
    this.box.addEventListener("mousedown", (event) => event.shiftKey && indexOf(event) !== undefined && (event.preventDefault(), this.box.focus({ preventScroll: true })));
    this.box.addEventListener("scroll", () => requestAnimationFrame(() => this.render(false, false)), { passive: true });
    this.box.addEventListener("click", (event) => tell(event, on.select));
    // Not where a link was pressed that scrolled the page under the pointer.
    this.pressed = (event) => (this.rest = `${event.screenX} ${event.screenY}`);
    addEventListener("pointerdown", this.pressed, true);
    this.box.addEventListener("pointerover", (event) => `${event.screenX} ${event.screenY}` !== this.rest && tell(event, on.preview));
    this.box.addEventListener("pointerleave", () => on.preview(null));
    this.strip.addEventListener("click", (event) => this.jump(event.offsetY / this.strip.clientHeight));
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.box);
    this.print = [() => this.render(true), () => this.render()];
    addEventListener("beforeprint", this.print[0]);
    addEventListener("afterprint", this.print[1]);
  }

  destroy() {
    this.watch.disconnect();
    removeEventListener("pointerdown", this.pressed, true);
    removeEventListener("beforeprint", this.print[0]);
    removeEventListener("afterprint", this.print[1]);
  }

  // Another text: its tokens' strings.
  set(texts) {
    this.texts = texts;
    this.columns = 0;
    this.laid = null;
    this.box.scrollTop = 0;
    this.resize();
  }

  resize() {
    if (!this.texts || !this.box.clientWidth) return;
    const size = this.ruler.getBoundingClientRect();
    const gutter = 6, columns = Math.max(20, Math.floor(this.box.clientWidth / (size.width / 100)) - gutter - 1);
    this.height = Math.round(size.height) + 4;
    const first = !this.laid; // in a notebook it may get its place on the page late
    if (columns !== this.columns) {
      this.columns = columns;
      this.laid = layout(this.texts, columns);
      this.canvas.style.height = `${this.laid.rows * this.height}px`;
    }
    if (first) this.reveal(this.look.selected());
    this.paint();
  }

  // After a change of colours, filter or selection.
  paint() {
    this.render(false, true);
    this.drawStrip();
  }

  render(all = false, again = true) {
    if (!this.laid) return;
    const first = Math.floor(this.box.scrollTop / this.height);
    const seen = Math.ceil(this.box.clientHeight / this.height);
    const from = all ? 0 : Math.max(0, first - SPARE);
    const to = Math.min(this.laid.rows, all ? PRINTED : first + seen + SPARE);
    if (!again && from === this.from && to === this.to) return;
    if (again || from >= this.to || to <= this.from) this.canvas.replaceChildren(...this.rows(from, to));
    else this.move(from, to);
    [this.from, this.to] = [from, to];
    const active = this.idOf(this.look.selected());
    this.box.setAttribute("aria-activedescendant", document.getElementById(active) ? active : "");
  }

  rows(from, to) {
    return Array.from({ length: Math.max(0, to - from) }, (_, i) => this.row(from + i));
  }

  // While scrolling: the rows that stay in sight stay as they are.
  move(from, to) {
    for (let row = this.from; row < Math.min(from, this.to); row++) this.canvas.firstChild.remove();
    for (let row = this.to; row > Math.max(to, from); row--) this.canvas.lastChild.remove();
    this.canvas.prepend(...this.rows(from, this.from));
    this.canvas.append(...this.rows(this.to, to));
  }

  idOf = (i) => `${this.look.prefix}token-${i}`;

  row(row) {
    const { token, text, start, line } = this.laid;
    const number = h("span", { class: "number", "aria-hidden": "true" }, line[row] ? String(line[row]) : "");
    const code = h("span", { class: "code", role: "none" });
    const end = start[row + 1] ?? text.length;
    for (let at = start[row]; at < end; at++) {
      const i = token[at], first = at === 0 || token[at - 1] !== i;
      code.append(h("span", {
        class: `token ${this.look.classes(i)}${first ? " first" : ""}`, "data-i": i,
        ...(first ? { id: this.idOf(i), role: "option", "aria-selected": String(i === this.look.selected()),
          "aria-label": `${oneLine(this.texts[i])}, ${this.look.says(i)}` } : { "aria-hidden": "true" }),
      }, text[at]));
    }
    const element = h("div", { class: "row", role: "none" }, number, code);
    element.style.top = `${row * this.height}px`;
    element.style.height = `${this.height}px`;
    return element;
  }

  rowOf = (i) => this.laid.rowOf[i];

  // The token a row up or down, near the same column.
  beside(i, rows) {
    const { token, start, rowOf, text } = this.laid;
    const row = Math.min(Math.max(rowOf[i] + rows, 0), this.laid.rows - 1);
    const place = (at, from) => text.slice(from, at).join("").length;
    let own = start[rowOf[i]];
    while (token[own] !== i) own++;
    const wanted = place(own, start[rowOf[i]]), end = start[row + 1] ?? text.length;
    let best = start[row];
    for (let at = start[row]; at < end; at++) if (place(at, start[row]) <= wanted) best = at;
    if (token[best] === i) return Math.min(Math.max(i + Math.sign(rows), 0), this.texts.length - 1);
    return token[best];
  }

  // A token into sight, and the classes of what is in sight anew.
  reveal(i) {
    if (!this.laid) return;
    const top = this.rowOf(i) * this.height, { scrollTop, clientHeight } = this.box;
    if (top < scrollTop + this.height || top > scrollTop + clientHeight - 2 * this.height)
      this.box.scrollTop = Math.max(0, top - clientHeight / 3);
    this.render(false, true);
  }

  jump(share) {
    this.box.scrollTop = share * this.laid.rows * this.height - this.box.clientHeight / 2;
  }

  drawStrip() {
    const { clientWidth: wide, clientHeight: high } = this.strip;
    if (!wide || !high || !this.laid) return;
    this.strip.width = wide;
    this.strip.height = high;
    const pen = this.strip.getContext("2d"), strongest = new Array(high).fill(null);
    const rankOf = new Map(this.look.order.map((name, rank) => [name, rank]));
    for (let at = 0, row = 0; at < this.laid.text.length; at++) {
      while (row + 1 < this.laid.rows && this.laid.start[row + 1] <= at) row++;
      const y = Math.floor((row / this.laid.rows) * high), name = this.look.colour(this.laid.token[at]);
      if (name && (strongest[y] === null || rankOf.get(name) > rankOf.get(strongest[y]))) strongest[y] = name;
    }
    const style = getComputedStyle(this.element), step = Math.max(1, Math.ceil(high / this.laid.rows));
    strongest.forEach((name, y) => {
      if (name === null) return;
      pen.fillStyle = style.getPropertyValue(`--${name}`) || "transparent";
      pen.fillRect(0, y, wide, step);
    });
  }
}

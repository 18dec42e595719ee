// Small charts as SVG: lines against temperature, bars by group. Their looks are in `sliders.css`.

import { digits, h } from "./elements.js";

const WIDE = 360, HIGH = 210, LEFT = 40, RIGHT = 8, TOP = 8;

function svg(tag, props = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Steps of 1, 2 or 5 from 0 to at least `most`.
export function ticks(most) {
  const rough = (most > 0 ? most : 1) / 5, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((each) => each * size >= rough - 1e-12);
  const count = Math.ceil((most > 0 ? most : 1) / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

// A figure with its axis of `most`; `draw(y)` gives what stands in it, y: value -> pixels.
function chart(title, says, most, bottom, draw) {
  const marks = ticks(most), top = marks.at(-1), ground = HIGH - bottom;
  const y = (value) => ground - ((ground - TOP) * value) / top;
  const grid = marks.flatMap((mark) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(mark), y2: y(mark) }),
    svg("text", { class: "tick", x: LEFT - 5, y: y(mark) + 3.5, "text-anchor": "end" }, digits(mark)),
  ]);
  return h("figure", {}, h("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": says }, ...grid, ...draw(y, ground)));
}

// series: [{name, values, exact}] over `temperatures`; `at`: the temperature that is set.
export function lines(title, temperatures, series, at) {
  const low = temperatures[0], high = temperatures.at(-1);
  const x = (t) => LEFT + 8 + ((WIDE - LEFT - RIGHT - 16) * (t - low)) / (high - low);
  const most = Math.max(...series.flatMap(({ values }) => values));
  const says = `${title}: ${series.map(({ name, values }) => `${name} ${digits(values[0])} to ${digits(values.at(-1))}`).join(", ")}`;
  return chart(title, says, most, 34, (y, ground) => [
    svg("line", { class: "marker", x1: x(at), x2: x(at), y1: TOP, y2: ground }),
    ...temperatures.filter((t) => Math.abs(t * 5 - Math.round(t * 5)) < 1e-6).map((t) =>
      svg("text", { class: "tick", x: x(t), y: ground + 13, "text-anchor": "middle" }, String(t))),
    svg("text", { class: "tick", x: (LEFT + WIDE) / 2, y: HIGH - 4, "text-anchor": "middle" }, "temperature"),
    ...series.map(({ values }, i) => svg("path", { class: `line of-${i}`,
      d: values.map((value, j) => `${j ? "L" : "M"}${x(temperatures[j])} ${y(value)}`).join("") })),
    ...series.flatMap(({ name, values, exact }, i) => values.map((value, j) => {
      const place = i ? { x: x(temperatures[j]) - 2.5, y: y(value) - 2.5, width: 5, height: 5 } : { cx: x(temperatures[j]), cy: y(value), r: 2.8 };
      return svg(i ? "rect" : "circle", { class: `dot of-${i}${exact[j] ? "" : " least"}`, ...place },
        svg("title", {}, `${name}, T=${temperatures[j]}: ${exact[j] ? "" : "at least "}${digits(value)}`));
    })),
  ]);
}

// series: [{name, values}], NaN where there is nothing; names: of the groups, below them.
export function bars(title, names, below, series) {
  const most = Math.max(0, ...series.flatMap(({ values }) => values.filter(Number.isFinite)));
  const room = (WIDE - LEFT - RIGHT) / names.length, wide = (0.8 * room) / series.length;
  const says = `${title}: ${series.map(({ name, values }) => `${name} ${values.map((value) => (Number.isFinite(value) ? digits(value) : "none")).join(", ")}`).join("; ")}`;
  return chart(title, says, most, 46, (y, ground) => [
    ...names.flatMap((name, i) => [name, below[i]].map((text, line) => svg("text", { class: "tick",
      x: LEFT + (i + 0.5) * room, y: ground + 13 + 12 * line, "text-anchor": "middle" }, text))),
    svg("text", { class: "tick", x: (LEFT + WIDE) / 2, y: HIGH - 4, "text-anchor": "middle" }, "top-20 mass of the position, %"),
    ...series.flatMap(({ name, values }, i) => values.map((value, j) => Number.isFinite(value)
      ? svg("rect", { class: `block of-${i}`, x: LEFT + (j + 0.1) * room + i * wide, width: wide, y: y(value), height: ground - y(value) },
        svg("title", {}, `${name}, ${names[j]} %: ${digits(value)}`)) : "")),
  ]);
}

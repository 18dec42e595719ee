// DOM without markup: every string becomes text.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A labelled control: the label's text beside it, in one element.
export const labelled = (text, control) => h("label", {}, h("span", {}, text), control);

export function choice(options, onchange, value) {
  const select = h("select", { onchange: () => onchange(select.value) });
  for (const [key, text] of options) select.append(h("option", { value: key }, text));
  if (value !== undefined) select.value = value;
  return select;
}

export const button = (text, title, onclick) => h("button", { type: "button", title, onclick }, text);

// Digits as pandas shows them, but short: 4 significant ones.
export function digits(x) {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "-∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(4))) : x.toExponential(2);
}

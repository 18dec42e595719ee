// What stands around a view: how wide it is, and whether that is dark.

const NARROW = 760; // CSS pixels: below, one column

// Keeps the classes `narrow` and `dark` of an element; `dark`: by the colour of the text around it,
// as a notebook's theme sets it, else by the system's scheme. -> a function that stops it.
export function follow(element, byText = false) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => element.classList.toggle("dark", byText ? isLight(getComputedStyle(element.parentElement ?? document.body).color) : system.matches);
  const fit = () => element.classList.toggle("narrow", (element.clientWidth || innerWidth) <= NARROW); // 0: not on the page yet
  const size = new ResizeObserver(() => (fit(), theme())), themes = new MutationObserver(theme);
  size.observe(element);
  system.addEventListener("change", theme);
  if (byText) for (const each of [document.documentElement, document.body]) themes.observe(each, { attributes: true });
  if (byText) element.addEventListener("pointerenter", theme); // a theme may load after its name is set
  theme();
  fit();
  return () => {
    size.disconnect();
    themes.disconnect();
    system.removeEventListener("change", theme);
    element.removeEventListener("pointerenter", theme);
  };
}

// Whether a computed colour is nearer to white than to black.
function isLight(colour) {
  const [red, green, blue] = colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  return 0.299 * red + 0.587 * green + 0.114 * blue > 127;
}

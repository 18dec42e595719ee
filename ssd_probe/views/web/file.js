// The host of one HTML file: blocks in data elements, the selection in the address.

import { mount } from "./viewer.js";

const read = (id) => document.getElementById(id).textContent;

function unpacked(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64); // of browsers since 2025
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

async function block(i) {
  const stream = new Blob([unpacked(read(`block-${i}`).trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// What is no number stays as it is written: the viewer says that there is no such position.
const number = (written) => (String(Number(written)) === written ? Number(written) : written);

function address() {
  const asked = new URLSearchParams(location.hash.slice(1));
  return { text: asked.get("text"), position: number(asked.get("position")) };
}

function onSelect({ text, position }) {
  const wanted = new URLSearchParams({ text, ...(position === null ? {} : { position }) });
  history.replaceState(null, "", `#${wanted}`);
}

const opened = mount(document.getElementById("viewer"), {
  meta: JSON.parse(read("meta")), block, onSelect, start: address(),
});
opened.then((viewer) => {
  const alone = !document.querySelector(".report");
  if (alone) viewer.focus();
  else if (address().text !== null) document.getElementById("viewer").scrollIntoView();
  addEventListener("hashchange", () => {
    if (!alone && address().text !== null) document.getElementById("viewer").scrollIntoView();
    viewer.show(address());
  });
});

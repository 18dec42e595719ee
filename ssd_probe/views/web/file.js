// The host of one HTML file: blocks in data elements, the selection in the address.

import { mount } from "./viewer.js";

const read = (id) => document.getElementById(id).textContent;

async function block(i) {
  const packed = atob(read(`block-${i}`).trim());
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function address() {
  const asked = new URLSearchParams(location.hash.slice(1));
  return { text: asked.get("text"), position: asked.has("position") ? Number(asked.get("position")) : null };
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
  addEventListener("hashchange", () => {
    if (!alone && address().text !== null) document.getElementById("viewer").scrollIntoView();
    viewer.show(address());
  });
});

// The token viewer as a widget: the first text is here, the others come when they are looked at; the
// selection goes to Python.

import { bytesOf, inCell } from "./asking.js";
import { mount } from "./viewer.js";

function render(cell) {
  const { model } = cell;
  return inCell(cell, async (box, ask) => {
    const { meta: shared, first } = model.get("data"), meta = { ...shared, names: {}, partial: {} };
    const block = async (text) => {
      const known = text === 0 && first;
      const { content, bytes } = known ? { content: first, bytes: bytesOf(first.block) } : await ask({ text });
      for (const kind of ["names", "partial"]) Object.assign(meta[kind], content[kind]);
      return bytes;
    };
    let own = JSON.stringify(model.get("selection"));
    const viewer = await mount(box, { meta, block, inNotebook: true, start: wanted(model.get("selection")),
      onSelect: ({ text, position, first, last }) => {
        own = JSON.stringify({ text, position, first, last });
        model.set("selection", JSON.parse(own));
        model.save_changes();
      } });
    const follow = () => {
      if (JSON.stringify(model.get("selection")) !== own) viewer.show(wanted(model.get("selection")));
    };
    model.on("change:selection", follow);
    return () => (model.off("change:selection", follow), viewer.destroy());
  });
}

// The other end of a selection than its position.
const wanted = ({ text, position, first, last }) => ({ text, position, first: position === first ? last : first });

export default { render };

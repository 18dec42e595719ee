// The panel as a widget: its settings are Python's too.

import { bytesOf, inCell } from "./asking.js";
import { mountPanel } from "./panel.js";

function render(cell) {
  const { model } = cell;
  return inCell(cell, async (box) => {
    const { meta, block } = model.get("data");
    const panel = mountPanel(box, { meta, block: bytesOf(block), settings: model.get("settings"),
      onChange: (settings) => {
        model.set("settings", settings);
        model.save_changes();
      } });
    const follow = () => panel.show(model.get("settings"));
    model.on("change:settings", follow);
    return () => (model.off("change:settings", follow), panel.destroy());
  });
}

export default { render };

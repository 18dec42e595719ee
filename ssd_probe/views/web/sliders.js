// The panel as a widget: its settings are Python's too.

import { inCell } from "./asking.js";
import { mountPanel } from "./panel.js";

function render(cell) {
  const { model } = cell;
  return inCell(cell, async (box, ask) => {
    const { content, bytes } = await ask({ ask: "positions" });
    const panel = mountPanel(box, { meta: content.meta, block: bytes, settings: model.get("settings"),
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

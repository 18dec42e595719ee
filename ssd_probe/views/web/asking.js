// What a notebook's view asks Python for, over the widget's messages.

const PATIENCE = 15000; // ms until it is said that nobody answers

// Bytes as Python sent them.
export const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// ask({...}) -> Promise of {content, bytes}; `late` is told where an answer takes long.
function asking(model, late) {
  const waiting = new Map(), view = Math.random().toString(36).slice(2); // a model may have many views
  let count = 0;
  const hear = (content, buffers) => {
    waiting.get(content.id)?.(content, buffers?.[0]);
    waiting.delete(content.id);
  };
  model.on("msg:custom", hear);
  const ask = (what) => new Promise((resolve, reject) => {
    const id = `${view}-${count++}`, watch = setTimeout(late, PATIENCE);
    waiting.set(id, (content, buffer) => {
      clearTimeout(watch);
      if (content.error) reject(new Error(content.error));
      else resolve({ content, bytes: buffer && bytesOf(buffer) });
    });
    model.send({ ...what, id });
  });
  return { ask, close: () => model.off("msg:custom", hear) };
}

// A view in a cell: `open(box, ask)` -> Promise of a function that ends it. Until it is open the
// saved picture beside it stays; afterwards that one is hidden, for as long as the view lives.
export function inCell({ model, el }, open) {
  const says = document.createElement("p"), box = document.createElement("div");
  says.setAttribute("role", "status");
  says.style.margin = "0";
  box.style.setProperty("--height", `${model.get("height")}px`);
  box.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys: `a` inserts a cell
  el.append(says, box);
  el.addEventListener("keydown", (event) => event.stopPropagation());
  const { ask, close } = asking(model, () => (says.textContent = "No answer yet: the kernel is busy, or gone (then run this cell again)."));
  let end = close;
  const told = async (what) => {
    try {
      const answer = await ask(what);
      says.textContent = "";
      return answer;
    } catch (error) {
      says.textContent = error.message;
      throw error;
    }
  };
  open(box, told).then((destroy) => {
    const hide = document.createElement("style");
    hide.textContent = `.${model.get("picture")} { display: none }`;
    el.append(hide);
    end = () => (destroy(), close());
  }, (error) => {
    says.textContent ||= `The view cannot be shown: ${error.message}`;
    console.error(error);
  });
  return () => end();
}

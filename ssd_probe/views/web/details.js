// One position in numbers and bars: what stands beside the text.

import { digits, h } from "./elements.js";
import { oneLine } from "./layout.js";
import { describe, probability, support, truncates } from "./math.js";

const FIRST = 10; // tokens shown before "all ranks"

// `look`: {block, row, sides: [{name, side, measured}], decoding, names, all}.
export function details(look) {
  const { block, row, sides } = look;
  const kinds = sides.map(({ measured }) => measured.label[row]);
  return [
    h("h2", {}, h("span", { class: "token-name" }, tokenOf(look, block.token_id[row], block.texts[block.token[row]]))),
    h("p", { class: "where" },
      `position ${block.position[row]} · token ${row + 1} of ${block.rows} · id ${block.token_id[row]}`,
      ` · ${block.segments[block.segment[row]] || "no segment"}`,
      block.syntaxes[block.syntax[row]] ? ` · ${block.syntaxes[block.syntax[row]]}` : ""),
    h("p", { class: "kinds" }, ...kinds.flatMap((kind, i) => [
      i ? " → " : "", h("span", { class: `tag k-${kind}` }, kind)])),
    numbers(look),
    bars(look),
  ];
}

function numbers({ block, row, sides, decoding }) {
  const cells = (name, of) => h("tr", {}, h("th", { scope: "row" }, name),
    ...sides.map(({ side, measured }) => h("td", {}, of(side, measured))));
  const rows = [
    cells("surprisal, nats", (side) => digits(-side.logprob[row])),
    cells("rank", (side) => String(side.rank[row])),
    cells("entropy, nats", (side) => digits(side.entropy[row])),
    cells(`tail beyond rank ${block.ranks}`, (side) => digits(Math.exp(side.tail[row]))),
    cells("support, tokens", (side) => range(side, row, decoding, "size", (n) => n === Infinity ? null : String(n))),
    cells("branching, tokens", (side) => range(side, row, decoding, "entropy", (x) => digits(Math.exp(x)))),
    cells("kept mass", (side) => range(side, row, decoding, "mass", digits)),
  ];
  if (block.kl_base_other) rows.push(h("tr", {}, h("th", { scope: "row" }, "KL, nats"),
    h("td", { colspan: sides.length }, digits(block.kl_base_other[row]))));
  const head = sides.length < 2 ? null : h("thead", {}, h("tr", {}, h("td"),
    ...sides.map(({ name }, i) => h("th", { scope: "col" }, `${i ? "after" : "before"}`))));
  return h("table", { class: "numbers" }, h("caption", {}, describe(decoding)), head, h("tbody", {}, ...rows));
}

// A value, or its bounds where the stored ranks do not decide.
function range(side, row, decoding, name, say) {
  if (!side.valid[row]) return "not valid";
  if (!truncates(decoding) && name === "size") return "all";
  const found = support(side, row, decoding, {});
  const [low, high] = [say(found.least[name]), say(found.most[name])];
  if (found.exact || low === high) return low;
  return high === null ? `≥ ${low}` : `${low} to ${high}`;
}

function bars(look) {
  const { block, row, sides, decoding } = look;
  const columns = sides.map(({ side }) => {
    const at = row * side.ranks, of = new Map();
    for (let r = 0; r < side.ranks; r++)
      if (side.top_ids[at + r] >= 0) of.set(side.top_ids[at + r], { rank: r + 1, p: probability(side, row, r) });
    const last = of.size === side.ranks ? probability(side, row, side.ranks - 1) : 0;
    return { of, last, kept: side.valid[row] ? support(side, row, decoding, {}).size : 0 };
  });
  const target = block.token_id[row]; // shown wherever it ranks
  sides.forEach(({ side }, i) => {
    if (!columns[i].of.has(target) && side.rank[row] > 0)
      columns[i].of.set(target, { rank: side.rank[row], p: Math.exp(side.logprob[row]) });
  });
  const ids = [...new Set(columns.flatMap(({ of }) => [...of.keys()]))];
  const best = (id) => Math.max(...columns.map(({ of }) => of.get(id)?.p ?? 0));
  ids.sort((a, b) => (columns[0].of.get(a)?.rank ?? 1e9) - (columns[0].of.get(b)?.rank ?? 1e9) || best(b) - best(a));
  const most = Math.max(...ids.map(best), 1e-12);
  const list = look.all ? ids : ids.filter((id, i) => i < FIRST || id === target);
  const items = list.map((id) => h("tr", { class: id === target ? "is-target" : undefined },
    h("th", { scope: "row" }, id === target ? h("span", { class: "mark", title: "the text's own token" }, "▶") : "",
      h("span", { class: "token-name" }, tokenOf(look, id))),
    h("td", { class: "bars" }, ...columns.map((column, i) => bar(column.of.get(id)?.p ?? 0, most, i))),
    ...columns.map((column) => probabilityCell(column, id))));
  const tail = h("tr", { class: "tail" }, h("th", { scope: "row" }, `beyond rank ${block.ranks}`), h("td"),
    ...sides.map(({ side }) => h("td", {}, digits(Math.exp(side.tail[row])))));
  const names = sides.length < 2 ? ["p"] : ["before", "after"];
  const caption = `Leading tokens at T=1; ✓ kept by ${describe(decoding)}`;
  return h("table", { class: "leading" }, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), h("td"), ...names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...items, tail));
}

function bar(p, most, side) {
  const element = h("span", { class: side ? "bar after" : "bar before", "aria-hidden": "true" });
  element.style.width = `${(100 * p) / most}%`;
  return element;
}

function probabilityCell({ of, last, kept }, id) {
  const found = of.get(id);
  if (!found) return h("td", {}, last ? `≤ ${digits(last)}` : "0");
  const stays = found.rank <= kept;
  return h("td", { class: stays ? "kept" : "cut" }, digits(found.p), h("span", { class: "mark" }, stays ? " ✓" : ""));
}

// What a token is called in lists: its text, the bytes of a part of a character, or its id.
export function tokenOf({ names }, id, text) {
  if (names.partial[id] !== undefined) return `⟨${names.partial[id].toUpperCase()}⟩`;
  const own = text ?? names.names[id];
  return own === undefined ? `#${id}` : oneLine(own);
}

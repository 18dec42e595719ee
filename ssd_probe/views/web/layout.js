// Tokens as rows of at most so many columns, with what cannot be seen made visible.

const LONGEST = 400; // characters shown of a token
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff]|[\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f000}-\u{1faff}\u{20000}-\u{3fffd}]/gu;

// Text with controls, zero widths, odd spaces and marks of direction as their code points.
export function shown(text) {
  const cut = text.length > LONGEST;
  const part = (cut ? text.slice(0, LONGEST) : text).replace(HIDDEN, (c) =>
    c === "\r" ? "␍" : `‹U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
  return cut ? `${part}… (${text.length.toLocaleString("en")} characters)` : part;
}

// One line of it, for lists: blanks and line ends too.
export function oneLine(text) {
  if (text === "") return "(no text)";
  return shown(text).replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "→");
}

export const width = (text) => text.length + (text.match(WIDE)?.length ?? 0);

// Rows of pieces: `token` and `text` of each piece, `start` of each row, its `line` (0: goes on).
export function layout(texts, columns) {
  const token = [], text = [], start = [0], line = [1], rowOf = new Int32Array(texts.length);
  let used = 0, lines = 1;
  const breakRow = (number) => {
    start.push(text.length);
    line.push(number);
    used = 0;
  };
  const put = (i, piece, wide) => {
    if (used && used + wide > columns) breakRow(0);
    token.push(i);
    text.push(piece);
    used += wide;
  };
  texts.forEach((whole, i) => {
    const pieces = shown(whole).split("\n");
    let first = true;
    pieces.forEach((piece, p) => {
      const last = p === pieces.length - 1;
      let rest = (/^[ \t]+$/.test(piece) ? piece.replace(/ /g, "·") : piece).replace(/\t/g, "→   ") + (last ? "" : "⏎");
      if (whole === "") rest = "∅";
      for (let wide = width(rest); rest; wide = width(rest)) {
        const room = wide > columns ? fitting(rest, columns) : rest.length;
        put(i, rest.slice(0, room), Math.min(wide, columns));
        if (first) rowOf[i] = start.length - 1;
        first = false;
        rest = rest.slice(room);
      }
      if (!last) breakRow(++lines);
    });
  });
  if (start.length > 1 && start.at(-1) === text.length) { // an end of line at the text's end
    start.pop();
    line.pop();
  }
  return { token, text, start, line, rowOf, rows: start.length };
}

// How many UTF-16 units of a text fit into so many columns, without halving a character.
function fitting(text, columns) {
  let used = 0, at = 0;
  for (const c of text) {
    used += width(c) > c.length ? 2 : 1;
    if (used > columns) break;
    at += c.length;
  }
  return Math.max(at, text.codePointAt(0) > 0xffff ? 2 : 1);
}

// What tokens can be coloured by, and scales that fit the text at hand.

import { change } from "./math.js";
import { digits } from "./elements.js";

const map = (n, f) => Float64Array.from({ length: n }, (_, row) => f(row));

// Each: key, name, what the numbers are; `values` of (block, side, measured) -> one a row.
export const METRICS = [
  { key: "label", name: "label", hint: "kind of position, by the support rule" },
  { key: "entropy", name: "entropy", hint: "nats, at T=1",
    values: (block, side) => map(block.rows, (i) => side.entropy[i]) },
  { key: "tail", name: "mass beyond the ranks", hint: "probability at T=1 of all tokens but the likeliest ones, which are stored",
    values: (block, side) => map(block.rows, (i) => Math.exp(side.tail[i])) },
  { key: "kept", name: "kept mass", hint: "probability at T=1 of what these settings keep; strong: little", reverse: true,
    values: (block, side, found) => found.mass },
  { key: "branching", name: "branching", hint: "e^entropy of what these settings keep, in tokens",
    values: (block, side, found) => found.entropy.map(Math.exp) },
  { key: "size", name: "support size", hint: "tokens that these settings keep",
    values: (block, side, found) => Float64Array.from(found.size) },
  { key: "surprisal", name: "surprisal", hint: "-log p of the text's own token, nats",
    values: (block, side) => map(block.rows, (i) => -side.logprob[i]) },
  { key: "kl", name: "KL after tuning", hint: "KL(before || after), nats", needs: "kl_base_other",
    values: (block) => Float64Array.from(block.kl_base_other) },
  { key: "change", name: "change after tuning", needs: "other",
    hint: "total variation, at least, from the stored ranks",
    values: (block) => map(block.rows, (i) => change(block.base, block.other, i)) },
  { key: "entropy_change", name: "entropy after - before", hint: "nats, at T=1", needs: "other", signed: true,
    values: (block) => map(block.rows, (i) => block.other.entropy[i] - block.base.entropy[i]) },
];

export const metricsOf = (block) => METRICS.filter((each) => !each.needs || block[each.needs]);

const ORDER = ["lock", "fork", "open", "neither"]; // this order first; others as they come

// Rows -> class names, and what the legend says of each: {className, text, count}.
export function paint(metric, values, labels) {
  if (metric.key === "label") return byLabel(labels);
  const size = (x) => (metric.signed ? Math.abs(x) : metric.reverse ? -x : x);
  const known = [...values].filter(Number.isFinite).map(size).sort((a, b) => a - b);
  const marks = metric.signed ? [0.5, 0.8, 0.95] : [0.5, 0.75, 0.9, 0.97];
  const edges = [...new Set(marks.map((q) => nice(known[Math.floor(q * (known.length - 1))] ?? 0)))]
    .filter((edge) => known.length && edge > known[0] && edge <= known.at(-1));
  const classOf = (x) => {
    if (Number.isNaN(x)) return "bad";
    let bin = 0;
    while (bin < edges.length && size(x) >= edges[bin]) bin++;
    const step = bin + (metric.signed ? 3 : 4) - edges.length; // the strongest colour is always used
    if (!bin) return "s0";
    return metric.signed ? (x < 0 ? `m${step}` : `p${step}`) : `s${step}`;
  };
  const classes = Array.from(values, classOf);
  return { classes, legend: ranges(metric, edges, classes) };
}

const nice = (x) => Number(x.toPrecision(2));

function ranges(metric, edges, classes) {
  const count = counted(classes), found = [], say = (x) => digits(Math.abs(x));
  const add = (className, text) => found.push({ className, text, count: count.get(className) ?? 0 });
  const steps = metric.signed ? 3 : 4, offset = steps - edges.length;
  const between = (i, sign, least) => {
    const ends = [say(edges[i]), i + 1 < edges.length ? say(edges[i + 1]) : null];
    if (metric.reverse) return ends[1] === null ? `≤ ${ends[0]}` : `${ends[1]} – ${ends[0]}`;
    if (ends[1] === null) return `${least} ${sign}${ends[0]}`;
    return sign === "-" ? `-${ends[1]} – -${ends[0]}` : `${sign}${ends[0]} – ${sign}${ends[1]}`;
  };
  if (metric.signed) for (let i = edges.length - 1; i >= 0; i--) add(`m${i + 1 + offset}`, between(i, "-", "≤"));
  if (!edges.length) add("s0", "all alike");
  else add("s0", metric.reverse ? `> ${say(edges[0])}` : metric.signed ? `within ±${say(edges[0])}` : `< ${say(edges[0])}`);
  for (let i = 0; i < edges.length; i++)
    add(`${metric.signed ? "p" : "s"}${i + 1 + offset}`, between(i, metric.signed ? "+" : "", "≥"));
  if (count.get("bad")) add("bad", "not valid");
  return found;
}

function byLabel(labels) {
  const count = counted(labels);
  const kinds = [...ORDER.filter((kind) => count.has(kind)), ...[...count.keys()].filter((k) => !ORDER.includes(k))];
  const share = (kind) => `${kind}, ${((100 * count.get(kind)) / labels.length).toFixed(1)} %`;
  return {
    classes: labels.map((kind) => `k-${kind}`),
    legend: kinds.map((kind) => ({ className: `k-${kind}`, text: share(kind), count: count.get(kind) })),
  };
}

function counted(items) {
  const count = new Map();
  for (const item of items) count.set(item, (count.get(item) ?? 0) + 1);
  return count;
}


// What a decoding leaves of the stored ranks: the maths of `Decoding.kept` and `PositionStats`.
//
//   temperature -> top-k (ties at the k-th logit stay) -> top-p -> min-p, of each token z:
//   z >= z_k,   mass before it < top_p,   z / T >= max z / T + log min_p
//
// Where tokens beyond the stored ranks may belong to the support, or their mass decides about it,
// `exact` is false, `least` and `most` bound what the vocabulary would say, and the value is `least`.

const SLACK = 1e-7; // of `Decoding.kept` for float32 logits
const GREEDY_BELOW = 1e-5;
const UNCLEAR = 1e-6; // what float32 fields can tell of a mass

export function describe(d) {
  if (d.temperature < GREEDY_BELOW) return "greedy";
  const parts = [`T=${d.temperature}`];
  if (d.topK) parts.push(`top-k ${d.topK}`);
  if (d.topP < 1) parts.push(`top-p ${d.topP}`);
  if (d.minP > 0) parts.push(`min-p ${d.minP}`);
  return parts.join(", ");
}

// Survivors of `decoding` at one row. `side`: {ranks, vocabulary, top_logits, tail, log_partition,
// entropy, ties, valid}. Fills `out`: size, entropy (nats), mass (kept at T=1), exact, least {size,
// entropy, mass}, most {the same; size Infinity where only the vocabulary is a bound}.
export function support(side, row, d, out) {
  const K = side.ranks, z = side.top_logits, at = row * K, top = z[at];
  out.least ??= {};
  out.most ??= {};
  if (!side.valid[row]) return invalid(out);
  const greedy = d.temperature < GREEDY_BELOW, T = greedy ? 1 : d.temperature;
  const minP = greedy ? 0 : d.minP || 0, topP = greedy ? 1 : d.topP, topK = greedy ? 0 : d.topK;
  const complete = side.tail[row] === -Infinity;
  let alive = 0;
  while (alive < K && z[at + alive] > -Infinity) alive++;

  let pool = greedy ? 1 : alive; // survivors of top-k among the ranks
  if (topK > 0 && topK < K) {
    const edge = z[at + topK - 1];
    pool = 0;
    while (pool < alive && z[at + pool] >= edge) pool++;
  }
  const beyond = tailBounds(side, row, greedy, T, topK, pool, complete);
  let head = 0;
  for (let r = 0; r < pool; r++) head += Math.exp((z[at + r] - top) / T);
  const probable = (n) => minCount(z, at, top, T, minP, n);
  let least, most, leaves = false;
  if (beyond.count === 0) {
    least = most = probable(nucleus(z, at, top, T, pool, head, topP, SLACK));
  } else {
    // A partition sum made of float32 fields is no exact number, and its bounds are rounded.
    const rounding = T === 1 && !topK ? 0 : UNCLEAR;
    const floor = (head + beyond.low) * (1 - rounding), ceiling = (head + beyond.high) * (1 + rounding);
    least = probable(nucleus(z, at, top, T, pool, floor, topP, UNCLEAR));
    most = probable(nucleus(z, at, top, T, pool, ceiling, topP, -UNCLEAR));
    // Tokens beyond the ranks stay only if the nucleus may go on there, and min-p lets them.
    leaves = !(topP < 1 && head / ceiling > topP + UNCLEAR) && probable(pool) === pool;
  }
  bound(out.least, side, row, T, least, d);
  if (leaves) unbounded(out.most, side, row, T, pool, head, beyond);
  else if (most === least) Object.assign(out.most, out.least);
  else bound(out.most, side, row, T, most, d);
  if (untouched(d)) out.least.entropy = out.most.entropy = side.entropy[row];
  out.exact = !leaves && least === most;
  out.size = least;
  out.entropy = out.least.entropy;
  out.mass = out.least.mass;
  return out;
}

function invalid(out) {
  for (const each of [out, out.least, out.most]) each.size = 0, each.entropy = each.mass = NaN;
  out.exact = false;
  return out;
}

const untouched = (d) => d.temperature === 1 && !truncates(d);
export const truncates = (d) =>
  d.temperature < GREEDY_BELOW || d.topK > 0 || d.topP < 1 || d.minP > 0;

// How many tokens beyond the ranks top-k may leave, and bounds of their sum of e^((z - max z) / T).
// Each is at most the last rank's w, and at T=1 they sum to S: of w^(1/T) the sum lies between that
// of S / w tokens at w and that of S spread over all.
function tailBounds(side, row, greedy, T, topK, pool, complete) {
  const K = side.ranks, at = row * K, z = side.top_logits;
  const none = { count: 0, low: 0, high: 0 };
  if (greedy || complete || pool < K) return none;
  const logW = z[at + K - 1] - z[at], logS = side.tail[row] + side.log_partition[row];
  if (topK > 0 && topK <= K) {
    if (z[at + K - 1] < z[at + topK - 1] || !side.ties[row]) return none;
    const ties = Math.max(Math.floor(Math.exp(logS - logW) + 1e-4), 1);
    return { count: ties, low: 0, high: ties * Math.exp(logW / T) };
  }
  const count = Math.max(side.vocabulary - K, 1), a = 1 / T;
  const packed = Math.exp(logS + logW * (a - 1));
  const spread = Math.exp((1 - a) * Math.log(count) + a * logS);
  const low = Math.min(packed, spread), high = Math.max(packed, spread);
  return topK > K ? { count, low: 0, high } : { count, low, high }; // at T=1 both are S
}

function nucleus(z, at, top, T, pool, total, topP, slack) {
  if (topP >= 1) return pool;
  let kept = 0, mass = 0;
  while (kept < pool && (kept === 0 || mass / total < topP - slack)) {
    mass += Math.exp((z[at + kept] - top) / T);
    kept++;
  }
  return kept;
}

function minCount(z, at, top, T, minP, n) {
  if (!(minP > 0)) return n;
  // The threshold is one of logits, as of `MinP`: max z / T + log min_p, the likeliest stays.
  const edge = top / T + Math.log(minP);
  let kept = Math.min(1, n);
  while (kept < n && z[at + kept] / T >= edge) kept++;
  return kept;
}

function entropy(z, at, top, T, n) {
  let mass = 0, slope = 0;
  for (let r = 0; r < n; r++) {
    const y = (z[at + r] - top) / T, w = Math.exp(y);
    mass += w;
    if (w > 0) slope += w * y;
  }
  return Math.max(Math.log(mass) - slope / mass, 0);
}

export function massOf(side, row, n) {
  const at = row * side.ranks, z = side.top_logits;
  let mass = 0;
  for (let r = 0; r < n; r++) mass += Math.exp(z[at + r] - z[at] - side.log_partition[row]);
  return Math.min(mass, 1);
}

function bound(into, side, row, T, n, d) {
  const at = row * side.ranks;
  into.size = n;
  into.entropy = entropy(side.top_logits, at, side.top_logits[at], T, n);
  into.mass = truncates(d) ? massOf(side, row, n) : 1;
}

// The support goes on beyond the ranks: entropy at most that of the head mixed with an even tail.
function unbounded(into, side, row, T, pool, head, beyond) {
  const at = row * side.ranks, b = Math.log(beyond.count);
  const a = entropy(side.top_logits, at, side.top_logits[at], T, pool);
  const share = Math.min(beyond.high / (head + beyond.high), 1 / (1 + Math.exp(a - b)));
  const mixing = share > 0 && share < 1
    ? -share * Math.log(share) - (1 - share) * Math.log(1 - share) : 0;
  into.size = Infinity;
  into.entropy = mixing + (1 - share) * a + share * b;
  into.mass = 1;
}

// The probability at T=1 of stored rank r.
export const probability = (side, row, r) =>
  Math.exp(side.top_logits[row * side.ranks + r] - side.top_logits[row * side.ranks] - side.log_partition[row]);

// All rows of a side under a decoding, and their labels by a rule; typed arrays.
export function measure(side, d, rule) {
  const n = side.valid.length, out = {};
  const found = {
    size: new Int32Array(n), entropy: new Float64Array(n), mass: new Float64Array(n),
    exact: new Uint8Array(n), label: new Array(n), inexact: 0,
  };
  for (let row = 0; row < n; row++) {
    support(side, row, d, out);
    found.size[row] = out.size;
    found.entropy[row] = out.entropy;
    found.mass[row] = out.mass;
    found.exact[row] = out.exact;
    if (side.valid[row] && !out.exact) found.inexact++;
    found.label[row] = label(side, row, Math.exp(out.entropy), rule);
  }
  return found;
}

// `SupportRule.label` of one row.
export function label(side, row, branching, rule) {
  if (!side.valid[row]) return "neither";
  if (rule.head_tokens) {
    let beyond = Math.exp(side.tail[row]); // 1 - head, never a difference
    for (let r = rule.head_tokens; r < side.ranks; r++) beyond += probability(side, row, r);
    if (beyond > 1 - rule.head_mass) return "open";
  }
  if (branching <= rule.lock_at_most) return "lock";
  return branching >= rule.fork_at_least ? "fork" : "neither";
}

// Total variation between the sides of a row, from what both stored: a lower bound. Tokens that
// both lists hold count one by one, all others as one: (|p - q| summed + |rest_p - rest_q|) / 2.
export function change(side, other, row) {
  if (!side.valid[row] || !other.valid[row]) return NaN;
  const at = row * side.ranks, there = row * other.ranks;
  let sum = 0, p = 0, q = 0;
  for (let r = 0; r < side.ranks; r++) {
    const id = side.top_ids[at + r];
    for (let s = 0; id >= 0 && s < other.ranks; s++) {
      if (other.top_ids[there + s] !== id) continue;
      const mine = probability(side, row, r), theirs = probability(other, row, s);
      sum += Math.abs(mine - theirs);
      p += mine;
      q += theirs;
      break;
    }
  }
  return (sum + Math.abs(q - p)) / 2;
}

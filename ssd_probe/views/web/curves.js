// Means over positions of what a decoding leaves: `analysis/curves.py` on stored ranks.

import { measure, probability, support } from "./math.js";

const UNDECIDED = 0.01; // of the positions, at most, for a mean: as `require_exact`
const isSaid = (inexact, rows) => inexact <= UNDECIDED * rows.length;

// The rows that are valid on all sides.
export const rowsOf = (sides) =>
  [...sides[0].valid.keys()].filter((row) => sides.every((side) => side.valid[row]));

// Figures 6b, 6c at one decoding: mean survivors, mean entropy (nats); `exact`: known so.
export function point(side, rows, d) {
  const out = {}, found = { survivors: 0, entropy: 0, inexact: 0 };
  for (const row of rows) {
    support(side, row, d, out);
    found.survivors += out.size / rows.length;
    found.entropy += out.entropy / rows.length;
    if (!out.exact) found.inexact++;
  }
  return { ...found, exact: isSaid(found.inexact, rows) };
}

// The bin of each row of Figure 6d: the first whose `allowed` mass beyond rank 20 it keeps to.
export function binsOf(side, rows, allowed) {
  return Uint8Array.from(rows, (row) => {
    let beyond = Math.exp(side.tail[row]), bin = 0;
    for (let r = 20; r < side.ranks; r++) beyond += probability(side, row, r);
    while (bin < allowed.length && beyond > allowed[bin]) bin++;
    return bin;
  });
}

// At one decoding: what `point` says, the labels' counts, and Figure 6d's mean entropy of each bin.
export function summary(side, rows, d, rule, bins, count) {
  const found = measure(side, d, rule), labels = {};
  const byBin = Array.from({ length: count }, () => ({ positions: 0, entropy: 0 }));
  const mean = { survivors: 0, entropy: 0 };
  rows.forEach((row, i) => {
    mean.survivors += found.size[row] / rows.length;
    mean.entropy += found.entropy[row] / rows.length;
    labels[found.label[row]] = (labels[found.label[row]] ?? 0) + 1;
    byBin[bins[i]].positions++;
    byBin[bins[i]].entropy += found.entropy[row];
  });
  for (const bin of byBin) bin.entropy = bin.positions ? bin.entropy / bin.positions : NaN;
  const inexact = rows.filter((row) => !found.exact[row]).length;
  return { ...mean, inexact, exact: isSaid(inexact, rows), labels, byBin };
}

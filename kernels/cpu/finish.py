"""From the heads and tails of rows to their statistics, and the ranks of targets, on CPUs."""

from __future__ import annotations

import numpy as np
from numba import njit

from ssd_probe.kernels.cpu.head import ABSENT, I64, id_of, key_of, value_of
from ssd_probe.kernels.cpu.logits import I32, MINUS_INF, logit
from ssd_probe.kernels.cpu.rows import add


@njit(fastmath={"reassoc"})
def _reaching(x, low):
    count = I32(0)
    for i in range(len(x)):
        count += I32(logit(x, i) >= low)
    return count


@njit(fastmath={"reassoc"})
def _above(x, high):
    count = I32(0)
    for i in range(len(x)):
        count += I32(logit(x, i) > high)
    return count


@njit
def _before(x, first_id, low, high, target):
    """How many of the logits rank before a target; those in low..high equal its logit."""
    here = min(max(target - first_id, 0), len(x))  # equal ones before it rank before it
    after = here + (0 <= target - first_id < len(x))
    return I64(_reaching(x[:here], low)) + I64(_above(x[after:], high))


@njit(cache=True, nogil=True)
def count_before(flat, stride, size, first_id, low, high, targets, counts, begin, end):
    """See `stats.count_before`; row by row."""
    for r in range(begin, end):
        x = flat[r * stride : r * stride + size]
        counts[r] += _before(x, first_id, low[r], high[r], targets[r])


@njit(cache=True, nogil=True)
def close(heads, tails, temperatures, numbers, at, top_logits, top_ids, valid, begin, end):
    """The statistics from heads and tails, float64 formulas, of the rows begin..end.

    `numbers` [5, N]: max_logit, log_partition, entropy, varentropy, tail_log_mass.
    """
    e, d = np.empty((2, heads.shape[1]))
    for r in range(begin, end):
        valid[r] = heads[r, 0] > ABSENT and not np.isnan(tails[r, 1])
        if not valid[r]:
            numbers[:, r], at[r], top_logits[r], top_ids[r] = np.nan, np.nan, np.nan, -1
            continue
        largest = np.float64(value_of(heads[r, 0]))
        for i in range(len(d)):
            key = heads[r, i]
            top_logits[r, i] = value_of(key) if key > ABSENT else MINUS_INF
            top_ids[r, i] = id_of(key) if key > ABSENT else -1
            d[i] = top_logits[r, i] - largest
            e[i] = np.exp(d[i])
        gap = tails[r, 0] - largest if tails[r, 0] > -np.inf else 0.0
        numbers[0, r] = largest
        numbers[1:, r] = _moments(d, e, gap, tails[r, 1:4])
        for j in range(len(temperatures)):
            t = temperatures[j]
            rest = np.exp(gap / t) * tails[r, 4 + j]
            for i in range(1, len(d)):
                rest += np.exp(d[i] / t)
            at[r, j] = np.log1p(rest)


@njit
def _moments(d, e, gap, weights):
    """log_partition, entropy, varentropy and tail_log_mass; see `closing._moments`."""
    weight, weight_y, weight_yy = weights
    log_partition = np.log1p(e[1:].sum() + np.exp(gap) * weight)
    first, tail = np.exp(-log_partition), np.exp(gap - log_partition)
    mean = tail * (weight_y + gap * weight)  # E[z - max]
    for i in range(1, len(d)):
        mean += first * e[i] * max(d[i], -1e3)
    b = gap - mean
    varentropy = first * mean**2 + tail * (weight_yy + 2 * b * weight_y + b**2 * weight)
    for i in range(1, len(d)):
        varentropy += first * e[i] * (max(d[i], -1e3) - mean) ** 2
    return log_partition, log_partition - mean, varentropy, gap + np.log(weight) - log_partition


@njit(cache=True, nogil=True)
def rank_targets(flat, stride, size, heads, targets, numbers, valid, log_p, rank, begin, end):
    """The targets' log-probabilities and ranks; NaN and -1 where there is none.

    Only a target beyond rank K costs a pass over its row.
    """
    for r in range(begin, end):
        target = targets[r]
        if not valid[r] or not 0 <= target < size:
            log_p[r], rank[r] = np.nan, -1
            continue
        x = flat[r * stride : r * stride + size]
        value = logit(x, target)
        log_p[r] = np.float64(value) - numbers[0, r] - numbers[1, r]
        key = key_of(value, target)
        if key > ABSENT and key >= heads[r, -1]:
            rank[r] = 1 + (heads[r] > key).sum()
        else:
            rank[r] = 1 + _before(x, 0, value, value, target)


@njit(cache=True, nogil=True)
def measure(flat, stride, size, temperatures, heads, tails, targets, numbers, at, top_logits,
            top_ids, valid, log_p, rank, begin, end):  # fmt: skip
    """`add`, `close` and `rank_targets`, row by row: a row is ranked while it is in the cache."""
    for r in range(begin, end):
        add(flat, stride, size, 0, temperatures, heads, tails, r, r + 1)
        close(heads, tails, temperatures, numbers, at, top_logits, top_ids, valid, r, r + 1)
        if len(targets):
            rank_targets(flat, stride, size, heads, targets, numbers, valid, log_p, rank, r, r + 1)

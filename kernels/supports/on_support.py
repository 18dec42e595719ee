"""Two models measured on the support that one decoding keeps of the first, on the CPU.

`analysis.changes` says what is measured and how the support is chosen; one compiled pass over the
ranks here.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssd_probe.decoding import Decoding
from ssd_probe.kernels.cpu.threads import in_threads
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.supports.many_decodings import _exp

MASSES = ("tail_mass", "kept_mass", "head_entropy", "gate_part", "head_part", "tail_part")
LOSS = ("compression", "reshaping", "alignment", "target_kl")

Floats = NDArray[np.float64]


def on_support(
    base: PositionStats,
    tuned: PositionStats,
    size: NDArray[np.int64],
    decoding: Decoding,
    at_base_top: NDArray[np.float32] | None = None,
) -> tuple[dict[str, Floats], dict[str, Floats], NDArray[np.int64]]:
    """`MASSES` and `LOSS` of both models [N] each, and how many tokens of S the tuned ranks lack.

    size: S is the base's first `size` ranks [N]; at_base_top: the tuned logits of the base's ranks
    [N, K], where they are known. Formulas: `analysis.changes.position_statistics`; a token of S
    that is nowhere known has mass 0, and in the loss the most that it can have. Loss terms are NaN
    for greedy `decoding`; everything is NaN where a model's row is not valid.
    Source: appendix B, eq. 12, 15 and 30.
    """
    count = len(size)
    found = np.full((2, len(MASSES) + len(LOSS), count), np.nan)
    missing = np.zeros(count, np.int64)
    known = np.empty((0, 0), np.float32) if at_base_top is None else np.asarray(at_base_top)
    of_base, of_tuned = _arrays(base), _arrays(tuned)
    valid = (base.valid & tuned.valid).numpy()
    temperature = 0.0 if decoding.is_greedy else decoding.temperature

    def rows(begin: int, end: int) -> None:
        part = slice(begin, end)
        one, other = (tuple(array[part] for array in arrays) for arrays in (of_base, of_tuned))
        out = found[:, :, part], missing[part]
        _rows(one, other, size[part], valid[part], known[part], temperature, *out)

    in_threads(rows, count)
    base_side, tuned_side = (dict(zip((*MASSES, *LOSS), side, strict=True)) for side in found)
    return base_side, tuned_side, missing


def _arrays(stats: PositionStats) -> tuple[NDArray, NDArray, Floats]:
    """ids and logits [N, K]; max z, log sum exp(z - max z), mass beyond, entropy [N, 4]."""
    scales = (stats.max_logit, stats.log_partition, stats.tail_log_mass.double().exp())
    return (
        np.ascontiguousarray(stats.top_ids.numpy()),
        np.ascontiguousarray(stats.top_logits.numpy()),
        np.stack([column.double().numpy() for column in (*scales, stats.entropy)], 1),
    )


@njit(nogil=True, cache=True)
def _rows(base, tuned, size, valid, known, temperature, found, missing):
    base_ids, base_logits, base_scales = base
    ids, logits, scales = tuned
    ranks, width = ids.shape[1], base_ids.shape[1]
    log_p, log_head, log_q = np.empty(max(ranks, width)), np.empty(width), np.empty(width)
    mass = np.empty(max(ranks, width))
    for row in range(len(size)):
        s = size[row]
        if not valid[row] or not s:
            continue
        _log_probabilities(base_logits[row], base_scales[row], log_p, mass)
        log_head[:s] = log_p[:s]
        tail = _sum_from_the_end(mass, s, width) + base_scales[row, 2]
        _temper(log_head[:s], temperature, log_q)
        at_most = min(log_p[width - 1], _log(min(tail, base_scales[row, 2])))
        _measure(log_head[:s], tail, log_q, at_most, temperature, base_scales[row, 3],
                 found[0, :, row])  # fmt: skip

        _log_probabilities(logits[row], scales[row], log_p, mass)
        for r in range(s):
            place = _place(base_ids[row, r], ids[row], r)
            log_head[r] = log_p[place] if place >= 0 else -np.inf
            if place >= 0:
                mass[place] = 0.0
        tail = _sum_from_the_end(mass, 0, ranks) + scales[row, 2]
        if known.shape[1]:
            tail -= _fill(log_head[:s], known[row], scales[row])
            tail = max(tail, 0.0)
        for r in range(s):
            missing[row] += log_head[r] == -np.inf
        at_most = min(log_p[ranks - 1], _log(min(tail, scales[row, 2])))
        _measure(log_head[:s], tail, log_q, at_most, temperature, scales[row, 3],
                 found[1, :, row])  # fmt: skip


@njit(nogil=True)
def _log_probabilities(logits, scales, log_p, mass):
    for j in range(len(logits)):
        log_p[j] = np.float64(logits[j]) - scales[0] - scales[1]
    for j in range(len(logits)):
        mass[j] = _exp(log_p[j])


@njit(nogil=True)
def _sum_from_the_end(mass, begin, end):
    total = 0.0
    for j in range(end - 1, begin - 1, -1):
        total += mass[j]
    return total


@njit(nogil=True)
def _place(wanted, ids, likely):
    """At which rank a token is, looked for at its rank in the other model first; or -1."""
    if likely < len(ids) and ids[likely] == wanted:
        return likely
    for j in range(len(ids)):
        if ids[j] == wanted:
            return j
    return -1


@njit(nogil=True)
def _fill(log_head, known, scales):
    """Give the head the tokens that the ranks lack; returns their mass."""
    total = 0.0
    for r in range(len(log_head)):
        if log_head[r] == -np.inf:
            log_head[r] = np.float64(known[r]) - scales[0] - scales[1]
            total += np.exp(log_head[r])
    return total


@njit(nogil=True)
def _temper(log_head, temperature, log_q):
    """log q: the base tempered on S and renormalised. Greedy (0) is left as it is: it has no q."""
    for r in range(len(log_head)):
        log_q[r] = log_head[r] / temperature if temperature else log_head[r]
    total = _log_total(log_q, len(log_head))
    for r in range(len(log_head)):
        log_q[r] -= total


@njit(nogil=True)
def _measure(log_head, tail, log_q, at_most, temperature, entropy, found):
    """A row's `MASSES` (the split of H(p), eq. 30), then `LOSS` (eq. 12)."""
    kept = 0.0
    for r in range(len(log_head)):
        kept += np.exp(log_head[r])
    log_kept, head_entropy = _log(kept), 0.0
    if kept > 0:
        for r in range(len(log_head)):
            if log_head[r] > -np.inf:
                log_pi = log_head[r] - log_kept
                head_entropy -= np.exp(log_pi) * log_pi
    head_entropy = max(head_entropy, 0.0)
    outside = min(tail, 1.0)  # a sum, which rounding may carry beyond
    gate = 0.0
    if 0 < outside < 1:
        gate = -outside * np.log(outside) - (1 - outside) * np.log1p(-outside)
    found[0], found[1], found[2], found[3] = outside, kept, head_entropy, gate
    found[4] = kept * head_entropy
    found[5] = max(entropy - gate - kept * head_entropy, 0.0)
    if temperature:
        _loss(log_head, tail, log_q, at_most, temperature, found)


@njit(nogil=True)
def _loss(log_head, tail, log_q, at_most, temperature, found):
    """The three terms and KL(q || p); `log_head` gets `at_most` for the tokens that it lacks."""
    size, lacks = len(log_head), False
    for r in range(size):
        if log_head[r] == -np.inf:
            log_head[r], lacks = at_most, True
    most = -np.inf
    for r in range(size):
        most = max(most, log_head[r])
    if most == -np.inf:  # no token of S has any mass: nothing is known but that
        return
    log_kept = _log_total(log_head, size) if lacks or tail > 0.5 else np.log1p(-tail)
    whole, divergence = 0.0, 0.0
    for r in range(size):
        whole += np.exp((log_head[r] - most) / temperature)
    # log Z of pi^(1/T), pi = p / K.
    log_z = (most - log_kept) / temperature + np.log(whole)
    aligned = 0.0
    for r in range(size):
        q = np.exp(log_q[r])
        if q > 0:
            aligned += q * (log_q[r] - (log_head[r] - log_kept) / temperature + log_z)
            divergence += q * (log_q[r] - log_head[r])
    found[6], found[7] = -log_kept, -temperature * log_z
    found[8], found[9] = temperature * aligned, divergence


@njit(nogil=True)
def _log_total(log_p, size):
    """log of the sum of their exponentials."""
    most = -np.inf
    for r in range(size):
        most = max(most, log_p[r])
    if most == -np.inf:
        return most
    total = 0.0
    for r in range(size):
        total += np.exp(log_p[r] - most)
    return most + np.log(total)


@njit(nogil=True)
def _log(p):
    return np.log(p) if p > 0 else -np.inf

"""From a row's lanes: which hold the top K, and the sums of all others."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.order import INT_MAX, _count, _empty, _logit, _middle, _order
from ssd_probe.kernels.gpu.scan import LANES, LOG2_E, LOWEST, _over, _plus, _rescale


@triton.jit
def _select(order, ids, low, high, most_id, k, most):
    """(cut, last) that k..most of the entries reach, how many do, and which; tensors of one shape.

    All that are at least `low`, if they are no more than `most`; none reaches `high`. By value
    first, then by id, 0 to `most_id`, among the entries of one value.
    """
    count = _count(order >= low)
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = _count(order >= middle)
        low = tl.where(reached >= k, middle, low)
        count = tl.where(reached >= k, reached, count)
        high = tl.where(reached >= k, high, middle)
    late = tl.where(order > low, -1, tl.where(order == low, ids, INT_MAX))
    before = -1 + 0 * count
    last = tl.where(count > most, most_id, INT_MAX - 1)
    while (count > most) & (before + 1 < last):
        middle = _middle(before, last)
        reached = _count(late <= middle)
        before = tl.where(reached >= k, before, middle)
        last = tl.where(reached >= k, middle, last)
        count = tl.where(reached >= k, reached, count)
    return low, last, count, late <= last


@triton.jit
def _choose(values, groups, lanes, steps, chosen, k, most, S: tl.constexpr, D: tl.constexpr):
    """Write the first groups of the k..most lanes that come first (or all) to `chosen`.

    Their largest logits become -inf in `values`. Returns (cut, last) that they reach, their number,
    an order that none reaches, and over the up to S segments the largest logits [LANES] of others.
    """
    segment, lane = tl.arange(0, S)[:, None], tl.arange(0, LANES)[None, :]
    # The last segment again, if there are not so many.
    at = tl.minimum(lanes - LANES, segment * LANES) + lane  # [S, LANES]
    order = tl.where(lanes > segment * LANES, _order(tl.load(values + at), D), _empty(D))
    first = tl.load(groups + at)
    least = tl.min(tl.min(tl.where(order > _empty(D), order, INT_MAX), 0), 0)
    high = tl.max(tl.max(order, 0), 0) + 1
    most_id = (lanes // LANES) * steps * LANES
    cut, last, held, taken = _select(order, first, least, high, most_id, k, most)

    one = taken.to(tl.int32)
    many = tl.sum(one, 0)
    place = (tl.cumsum(many, 0) - many)[None, :] + (tl.cumsum(one, 0) - one)
    # A false hint: a thread stores what it has loaded, and exchanges nothing. The mask by element
    # splits the stores. (In a function of its own the hint would be lost: it is of an operation.)
    place = tl.max_contiguous(tl.multiple_of(place, [1, 4]), [1, 4])
    home = segment * (steps * LANES) + lane
    tl.store(chosen + place, home, mask=taken & (place < most))
    tl.store(values + at, -float("inf"), mask=taken)
    top = tl.max(tl.where(taken, -float("inf"), _logit(order, D)), 0)
    return cut, last, held, high, tl.maximum(top, LOWEST)


@triton.jit
def _unread(values, lanes, top, inverse_t, R: tl.constexpr):
    """Over the segments, R at a time, the sums [LANES], relative to `top`, of the lanes not chosen.

    NaN if any lane's are NaN or infinite.
    """
    segment, lane = tl.arange(0, R)[:, None], tl.arange(0, LANES)[None, :]
    totals = (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))
    for begin in tl.range(0, lanes, R * LANES):
        first = begin + segment * LANES
        at = tl.minimum(lanes - LANES, first) + lane
        largest = tl.where(first < lanes, tl.load(values + at), -float("inf"))
        sums = ()
        for j in tl.static_range(3 + len(inverse_t)):
            sums = sums + (tl.load(values + (1 + j) * lanes + at),)
        moved = _rescale(sums, (largest - top[None, :]) * LOG2_E, inverse_t)
        totals = _plus(totals, _over(moved, 0))
    return totals

"""From a row's lanes: which hold the top K, and the sums of all others."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.order import INT_MAX, _empty, _middle, _order, _places
from ssd_probe.kernels.gpu.scan import LANES, LOG2_E, LOWEST, _rescale


@triton.jit
def _at_least(order, least):
    """How many of the orders, a tuple of tensors [n], are at least `least`."""
    reached = (order[0] >= least).to(tl.int32)
    for i in tl.static_range(1, len(order)):
        reached += (order[i] >= least).to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _at_most(late, last):
    """How many of the tuple's entries are at most `last`."""
    reached = (late[0] <= last).to(tl.int32)
    for i in tl.static_range(1, len(late)):
        reached += (late[i] <= last).to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _select(order, ids, low, high, most_id, k, most):
    """(cut, last) that k..most of the entries reach, and how many do; tuples of tensors [n].

    All that are at least `low`, if they are no more than `most`; none reaches `high`. By value
    first, then by id, 0 to `most_id`, among the entries of one value. An entry reaches (cut, last)
    if what is returned for it fourthly is at most `last`.
    """
    count = _at_least(order, low)
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = _at_least(order, middle)
        low = tl.where(reached >= k, middle, low)
        count = tl.where(reached >= k, reached, count)
        high = tl.where(reached >= k, high, middle)
    late = ()
    for i in tl.static_range(len(order)):
        at = tl.where(order[i] > low, -1, tl.where(order[i] == low, ids[i], INT_MAX))
        late = late + (at,)
    before = -1 + 0 * count
    last = tl.where(count > most, most_id, INT_MAX - 1)
    while (count > most) & (before + 1 < last):
        middle = _middle(before, last)
        reached = _at_most(late, middle)
        before = tl.where(reached >= k, before, middle)
        last = tl.where(reached >= k, middle, last)
        count = tl.where(reached >= k, reached, count)
    return low, last, count, late


@triton.jit
def _segment(lanes, i):
    """The first lane of segment i; of the last segment, if there are not so many."""
    return tl.minimum(lanes - LANES, i * LANES)


@triton.jit
def _choose(values, groups, lanes, steps, chosen, k, most, S: tl.constexpr, E: tl.constexpr):
    """Write the first groups of the k..most lanes that come first (or all) to `chosen`.

    Their largest logits become -inf in `values`. Returns (cut, last) that they reach, their number,
    and an order that none reaches.
    """
    lane = _places(LANES)
    order, first = (), ()
    for i in tl.static_range(S):
        at = _segment(lanes, i) + lane
        x = tl.where(lanes > i * LANES, _order(tl.load(values + at), E), _empty(E))
        order, first = order + (x,), first + (tl.load(groups + at),)
    least, high = INT_MAX, _empty(E)
    for i in tl.static_range(S):
        least = tl.minimum(tl.where(order[i] > _empty(E), order[i], INT_MAX), least)
        high = tl.maximum(order[i], high)
    high = tl.max(high) + 1
    most_id = (lanes // LANES) * steps * LANES
    cut, last, held, late = _select(order, first, tl.min(least), high, most_id, k, most)

    many = tl.zeros([LANES], tl.int32)
    for i in tl.static_range(S):
        many += (late[i] <= last).to(tl.int32)
    place = tl.cumsum(many, 0) - many
    for i in tl.static_range(S):
        taken = late[i] <= last
        home = i * (steps * LANES) + lane
        tl.store(chosen + place, home, mask=taken & (place < most))
        tl.store(values + _segment(lanes, i) + lane, -float("inf"), mask=taken)
        place += taken.to(tl.int32)
    return cut, last, held, high


@triton.jit
def _unread(values, lanes, inverse_t, S: tl.constexpr):
    """Over the up to S segments, the largest logits and sums [LANES] of the lanes not chosen.

    The sums are NaN if any lane's are NaN or infinite.
    """
    lane = _places(LANES)
    top = tl.full([LANES], LOWEST, tl.float32)
    totals = (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))
    largest = ()
    for i in tl.static_range(S):
        x = tl.load(values + _segment(lanes, i) + lane)
        largest = largest + (tl.where(lanes > i * LANES, x, -float("inf")),)
        top = tl.maximum(top, x)
    for i in tl.static_range(S):
        sums, at = (), _segment(lanes, i) + lane
        for j in tl.static_range(3 + len(inverse_t)):
            sums = sums + (tl.load(values + (1 + j) * lanes + at),)
        moved = _rescale(sums, (largest[i] - top) * LOG2_E, inverse_t)
        added = ()
        for j in tl.static_range(3 + len(inverse_t)):
            added = added + (totals[j] + moved[j],)
        totals = added
    return top, totals

"""The logits of the groups found: which are the top K, in order, and the sums of the rest."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.order import NOTHING, _count, _key, _logit, _order, _places, _reaches
from ssd_probe.kernels.gpu.scan import _add, _below, _rescale, _shift


@triton.jit
def _candidates(of, begin, E: tl.constexpr, W: tl.constexpr):
    """The order of the logits of W groups found, and their ids: E columns [W].

    The V % E last logits come after the groups found.
    """
    row, found, count, size = of
    at = begin + tl.arange(0, W)
    group = tl.load(found + at, mask=at < count, other=size // E)
    stop = tl.where(at <= count, size, 0)
    order, ids = (), ()
    for i in tl.static_range(E):
        index = group * E + i
        logit = tl.load(row + index, mask=index < stop, other=-float("inf"))
        order, ids = order + (_order(logit.to(tl.float32), E),), ids + (index,)
    return order, ids


@triton.jit
def _tally(of, cut, last, E: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
           ALIGNED: tl.constexpr):  # fmt: skip
    """How many candidates reach (cut, last)."""
    reached = tl.zeros([W], tl.int32)
    for begin in tl.range(0, of[2] + 1, W):
        order, ids = _candidates(of, begin, E, W)
        for i in tl.static_range(E):
            reached += _reaches(order[i], ids[i], cut, last).to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _keep(of, cut, last, ranked, E: tl.constexpr, W: tl.constexpr, LIST: tl.constexpr):
    """Write the keys of the candidates that reach (cut, last) to `ranked`, the first LIST of them.

    Returns how many there are.
    """
    live = 0 * of[2]
    for begin in tl.range(0, of[2] + 1, W):
        order, ids = _candidates(of, begin, E, W)
        many = tl.zeros([W], tl.int32)
        for i in tl.static_range(E):
            many += _reaches(order[i], ids[i], cut, last).to(tl.int32)
        place = live + tl.cumsum(many, 0) - many
        live += tl.sum(many)
        for i in tl.static_range(E):
            near = _reaches(order[i], ids[i], cut, last)
            tl.store(ranked + place, _key(order[i], ids[i], E), mask=near & (place < LIST))
            place += near.to(tl.int32)
    return live


@triton.jit
def _extras(of, cut, last, inverse_t, E: tl.constexpr, W: tl.constexpr):
    """Each thread's largest logit and sums [W] of the candidates that do not reach (cut, last)."""
    top = tl.full([W], -float("inf"), tl.float32)
    sums = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
    for begin in tl.range(0, of[2] + 1, W):
        order, ids = _candidates(of, begin, E, W)
        rest, new = (), top
        for i in tl.static_range(E):
            head = _reaches(order[i], ids[i], cut, last)
            rest = rest + (tl.where(head, -float("inf"), _logit(order[i], E)),)
            new = tl.maximum(new, rest[i])
        shift, moved = _shift(top, new, False)
        added = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
        for i in tl.static_range(E):
            added = _add(added, _below(rest[i][:, None], shift, False), inverse_t)
        old = _rescale(sums, moved, inverse_t)
        sums = ()
        for i in tl.static_range(3 + len(inverse_t)):
            sums = sums + (old[i] + added[i],)
        top = new
    return top, sums


@triton.jit
def _unusual(row, size, E: tl.constexpr):
    """How many of the V % E last logits are NaN or +inf: no lane says so."""
    last = size // E * E + tl.arange(0, E)
    x = tl.load(row + last, mask=last < size, other=0.0).to(tl.float32)
    return _count((x != x) | (x == float("inf")))


@triton.jit
def _rank_keys(ranked, live, LIST: tl.constexpr, KP: tl.constexpr):
    """The `live` keys at `ranked`, in order: the first KP of them, else NOTHING."""
    at = _places(LIST)
    keys = tl.load(ranked + at, mask=at < live, other=NOTHING)
    rank = tl.zeros([LIST], tl.int32)
    for i in tl.range(0, live, loop_unroll_factor=4):
        rank += (tl.load(ranked + i) > keys).to(tl.int32)
    tl.debug_barrier()
    tl.store(ranked + rank, keys, mask=(at < live) & (rank < KP))
    tl.debug_barrier()
    first = _places(KP)
    return tl.load(ranked + first, mask=first < live, other=NOTHING)

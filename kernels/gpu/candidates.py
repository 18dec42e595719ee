"""The logits of the groups found: which are the top K, in order, and the sums of the rest."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.order import (
    NOTHING,
    _count,
    _key,
    _logit,
    _order,
    _places,
    _reaches,
)
from ssd_probe.kernels.gpu.scan import _below, _over, _plus, _rescale, _shift, _terms


@triton.jit
def _candidates(of, begin, E: tl.constexpr, D: tl.constexpr, W: tl.constexpr):
    """The order of the logits of W groups found, and their ids: [W, E].

    The V % E last logits come after the groups found.
    """
    row, found, count, size = of
    at = begin + tl.arange(0, W)
    group = tl.load(found + at, mask=at < count, other=size // E)
    stop = tl.where(at <= count, size, 0)
    ids = group[:, None] * E + tl.arange(0, E)[None, :]
    logit = tl.load(row + ids, mask=ids < stop[:, None], other=-float("inf"))
    return _order(logit.to(tl.float32), D), ids


@triton.jit
def _tally(of, cut, last, E: tl.constexpr, D: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
           ALIGNED: tl.constexpr):  # fmt: skip
    """How many candidates reach (cut, last)."""
    reached = tl.zeros([W], tl.int32)
    for begin in tl.range(0, of[2] + 1, W):
        order, ids = _candidates(of, begin, E, D, W)
        reached += tl.sum(_reaches(order, ids, cut, last).to(tl.int32), 1)
    return tl.sum(reached)


@triton.jit
def _keep(of, cut, last, kept, inverse_t, E: tl.constexpr, D: tl.constexpr, W: tl.constexpr,
          LIST: tl.constexpr):  # fmt: skip
    """Write which candidates reach (cut, last) to `kept`, int16, the first LIST of them.

    Returns how many there are; of the others, each thread's largest logit and sums [W].
    """
    live = 0 * of[2]
    top = tl.full([W], -float("inf"), tl.float32)
    sums = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
    for begin in tl.range(0, of[2] + 1, W):
        order, ids = _candidates(of, begin, E, D, W)
        near = _reaches(order, ids, cut, last)
        one = near.to(tl.int32)
        many = tl.sum(one, 1)
        place = (live + tl.cumsum(many, 0) - many)[:, None] + (tl.cumsum(one, 1) - one)
        live += tl.sum(many)
        which = ((begin + tl.arange(0, W)) * E)[:, None] + tl.arange(0, E)[None, :]
        place = tl.max_contiguous(tl.multiple_of(place, [1, E]), [1, E])  # false, see `_choose`
        tl.store(kept + place, which.to(tl.int16), mask=near & (place < LIST))
        rest = tl.where(near, -float("inf"), _logit(order, D))
        new = tl.maximum(top, tl.max(rest, 1))
        shift, moved = _shift(top, new, False)
        added = _over(_terms(_below(rest, shift, False), inverse_t), 1)
        top, sums = new, _plus(_rescale(sums, moved, inverse_t), added)
    return live, top, sums


@triton.jit
def _unusual(row, size, E: tl.constexpr):
    """How many of the V % E last logits are NaN or +inf: no lane says so."""
    last = size // E * E + tl.arange(0, E)
    x = tl.load(row + last, mask=last < size, other=0.0).to(tl.float32)
    return _count((x != x) | (x == float("inf")))


@triton.jit
def _rank_keys(of, kept, live, ranked, E: tl.constexpr, D: tl.constexpr, LIST: tl.constexpr,
               K: tl.constexpr, KP: tl.constexpr):  # fmt: skip
    """The keys of the `live` candidates in `kept`, in order: the first KP of them, else NOTHING.

    Also the logits [LIST] of those beyond rank K, else -inf.
    """
    row, found, count, size = of
    at = _places(LIST)
    which = tl.load(kept + at, mask=at < live, other=0).to(tl.int32)
    listed = which >> (3 if E == 8 else 2)  # = which // E
    group = tl.load(found + listed, mask=listed < count, other=size // E)
    ids = group * E + (which & (E - 1))
    there = (at < live) & (ids < size)
    order = _order(tl.load(row + ids, mask=there, other=-float("inf")).to(tl.float32), D)
    keys = tl.where(there, _key(order, ids, D), NOTHING)
    tl.store(ranked + at, keys)
    tl.debug_barrier()
    rank = tl.zeros([LIST], tl.int32)
    for i in tl.range(0, live, loop_unroll_factor=4):
        rank += (tl.load(ranked + i) > keys).to(tl.int32)
    tl.debug_barrier()
    tl.store(ranked + rank, keys, mask=there & (rank < KP))
    tl.debug_barrier()
    first = _places(KP)
    beyond = tl.where(there & (rank >= K), _logit(order, D), -float("inf"))
    return tl.load(ranked + first, mask=first < live, other=NOTHING), beyond

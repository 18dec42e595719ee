"""The lanes that hold the top K, read again: which of their groups do, and the sums of the rest."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.order import INT_MAX, _logit, _middle, _reaches
from ssd_probe.kernels.gpu.scan import (
    LANES,
    _below,
    _best,
    _groups,
    _over,
    _plus,
    _rescale,
    _shift,
    _terms,
)

AGAIN = 4  # groups of a lane read again at once


@triton.jit
def _homes(chosen, begin, held, steps, size, W: tl.constexpr, E: tl.constexpr):
    """The first groups of W chosen lanes, and the groups where they end."""
    slot = begin + tl.arange(0, W)
    home = tl.load(chosen + slot, mask=slot < held, other=INT_MAX // 2)
    return home, tl.minimum(home + steps * LANES, size // E)


@triton.jit
def _again(row, group, end, cut, last, size, E: tl.constexpr, ALIGNED: tl.constexpr):
    """Logits of the groups that come before `end`, their largest, and which reach (cut, last).

    Other threads read the row's last group: -inf for each of 8 logits would cost more.
    """
    inside = group < end
    tiles = _groups(row, tl.minimum(group, size // E - 1), inside, size, E, False, ALIGNED)
    best = tl.where(inside, _best(tiles), -float("inf"))
    return tiles, best, _reaches(best, group, cut, last)


@triton.jit
def _survey(of, cut, last, E: tl.constexpr, D: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
            ALIGNED: tl.constexpr):  # fmt: skip
    """How many groups of the chosen lanes reach (cut, last)."""
    row, chosen, held, steps, size = of
    reached = tl.zeros([W], tl.int32)
    cut = _logit(cut, D)
    for begin in tl.range(0, held, W):
        home, end = _homes(chosen, begin, held, steps, size, W, E)
        for step in tl.range(0, steps):
            group = home + step * LANES
            _, _, hit = _again(row, group, end, cut, last, size, E, ALIGNED)
            reached += hit.to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _narrow(COUNT: tl.constexpr, of, cut, last, high, k, most, E: tl.constexpr, D: tl.constexpr,
            U: tl.constexpr, W: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """A (cut, last) that k..most entries reach; more reach the one given, and none `high`.

    As in `_select`, but COUNT(of, cut, last, ...) reads them again each time.
    """
    count = most + 1
    low = cut
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = COUNT(of, middle, INT_MAX, E, D, U, W, ALIGNED)
        count = tl.where(reached >= k, reached, count)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle)
    last = tl.where(low > cut, INT_MAX, last)
    before = -1 + 0 * last
    while (count > most) & (before + 1 < last):
        middle = _middle(before, last)
        reached = COUNT(of, low, middle, E, D, U, W, ALIGNED)
        count = tl.where(reached >= k, reached, count)
        before = tl.where(reached >= k, before, middle)
        last = tl.where(reached >= k, middle, last)
    return low, last


@triton.jit
def _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E: tl.constexpr,
             D: tl.constexpr, U: tl.constexpr, W: tl.constexpr, LIST: tl.constexpr,
             FUSED: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """Write the chosen lanes' groups that reach (cut, last) to `found`, the first LIST of them.

    Returns how many there are; of the others, each thread's largest logit and sums [W].
    """
    top = tl.full([W], -float("inf"), tl.float32)
    sums = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
    count = 0 * held
    cut = _logit(cut, D)
    for begin in tl.range(0, held, W):
        home, end = _homes(chosen, begin, held, steps, size, W, E)
        for step in tl.range(0, steps, U):
            x, rest, hits = (), (), ()
            many = tl.zeros([W], tl.int32)
            new = top
            for u in tl.static_range(U):
                group = home + (step + u) * LANES
                tiles, best, hit = _again(row, group, end, cut, last, size, E, ALIGNED)
                other = (group < end) & ~hit
                new = tl.where(other, tl.maximum(new, best), new)
                many += hit.to(tl.int32)
                x, rest, hits = x + (tiles,), rest + (other,), hits + (hit,)
            place = count + tl.cumsum(many, 0) - many
            count += tl.sum(many)
            shift, moved = _shift(top, new, FUSED)
            added = ()
            for u in tl.static_range(U):
                mask = hits[u] & (place < LIST)
                tl.store(found + place, home + (step + u) * LANES, mask=mask)
                place += hits[u].to(tl.int32)
                under = tl.where(rest[u], shift, float("inf"))
                for tile in tl.static_range(len(x[u])):
                    terms = _terms(_below(x[u][tile], under, FUSED), inverse_t)
                    added = terms if len(added) == 0 else _plus(added, terms)
            top, sums = new, _plus(_rescale(sums, moved, inverse_t), _over(added, 1))
    return count, top, sums

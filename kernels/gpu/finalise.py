"""From a row's lanes to its statistics: Triton kernel `_finalise`, and keys that order logits."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.scan import LANES, LOG2_E, LOWEST, _add, _load, _rescale, _row

LN_2 = tl.constexpr(0.6931471805599453)
BOTTOM = tl.constexpr(-0x7F7FFFFF << 32)  # the key of the lowest finite number at the last index
NOTHING = tl.constexpr(-(2**63))  # below every key
MASK_31 = tl.constexpr(2**31 - 1)
MASK_63 = tl.constexpr(2**63 - 1)


@triton.jit
def _ordered(x):
    """Float32 -> int32 in the same order, -0.0 as 0.0; its own inverse on the bits."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -(2**31) - bits, bits)


@triton.jit
def _key(x, index):
    """int64 keys by (value descending, index ascending); NaN and -inf get NOTHING."""
    key = (_ordered(x).to(tl.int64) << 32) + (-index + MASK_31)
    return tl.where(x > -float("inf"), key, NOTHING)


@triton.jit
def _value(key):
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _index(key):
    return (-(key & 0xFFFFFFFF) + MASK_31).to(tl.int32)


@triton.jit
def _middle(low, high):
    return (low >> 1) + (high >> 1) + (low & high & 1)  # low + high overflows


@triton.jit
def _select(keys, k, most):
    """A key that k..most of the keys reach, and how many do.

    With fewer than k that are something, it is a key that all logits reach.
    """
    count = tl.sum((keys != NOTHING).to(tl.int32))
    low = tl.min(tl.where(keys != NOTHING, keys, MASK_63))
    low = tl.where(count < k, BOTTOM, low)
    high = tl.max(keys) + 1
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = tl.sum((keys >= middle).to(tl.int32))
        low = tl.where(reached >= k, middle, low)
        count = tl.where(reached >= k, reached, count)
        high = tl.where(reached >= k, high, middle)
    return low, count


@triton.jit
def _tile(row, slot_group, phase, step, steps, size, E: tl.constexpr, SPLIT: tl.constexpr,
          ALIGNED: tl.constexpr):  # fmt: skip
    """What each slot reads in one step: logits [LANES, E] or -inf, their groups [LANES]."""
    own = step * SPLIT + phase
    group = slot_group + own * LANES
    inside = (slot_group >= 0) & (own < steps) & (group < size // E)
    offset = group[:, None] * E + tl.arange(0, E)[None, :]
    return _load(row + offset, inside, size, E, ALIGNED), group


@triton.jit
def _reaches(best, group, key):
    """Which groups, of largest logits `best`, come at or before `key`."""
    value = _value(key)
    return (best > value) | ((best == value) & (group <= _index(key)))


@triton.jit
def _survey(row, slot_group, phase, steps, size, key, E: tl.constexpr, SPLIT: tl.constexpr,
            ALIGNED: tl.constexpr):  # fmt: skip
    """In each slot: how many groups reach `key`, and the largest logit of the others."""
    reached = tl.zeros([LANES], tl.int32)
    rest_top = tl.full([LANES], -float("inf"), tl.float32)
    for step in tl.range(0, tl.cdiv(steps, SPLIT), loop_unroll_factor=2):
        x, group = _tile(row, slot_group, phase, step, steps, size, E, SPLIT, ALIGNED)
        best = tl.max(x, 1)
        hit = _reaches(best, group, key)
        reached += hit.to(tl.int32)
        rest_top = tl.maximum(rest_top, tl.where(hit, -float("inf"), best))
    return reached, rest_top


@triton.jit
def _collect(found, place, row, slot_group, phase, steps, size, key, rest_top, inverse_t,
             E: tl.constexpr, SPLIT: tl.constexpr, LIST: tl.constexpr,
             ALIGNED: tl.constexpr):  # fmt: skip
    """Write the groups that reach `key` to found[place:LIST]; the sums over the others."""
    sums = (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))
    shift = tl.maximum(rest_top, LOWEST)
    for step in tl.range(0, tl.cdiv(steps, SPLIT), loop_unroll_factor=2):
        x, group = _tile(row, slot_group, phase, step, steps, size, E, SPLIT, ALIGNED)
        hit = _reaches(tl.max(x, 1), group, key)
        tl.store(found + place, group, mask=hit & (place < LIST))
        place += hit.to(tl.int32)
        below = (x - tl.where(hit, float("inf"), shift)[:, None]) * LOG2_E
        sums = _add(sums, below, inverse_t)
    return sums


@triton.jit
def _total(sums, tops, shift, inverse_t):
    """Float64 totals relative to `shift` of sums [n] that are each relative to its own top."""
    sums = _rescale(sums, (tl.maximum(tops, LOWEST) - shift) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        part = tl.where(tops > -float("inf"), sums[i], 0.0)
        result = result + (tl.sum(part.to(tl.float64)),)
    return result


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0 to the last digits of a float64 (W. Kahan)."""
    w = 1 + x
    return tl.where(w == 1, x, tl.log(w) * (x / (w - 1)))


@triton.jit
def _close(x, rank, top, tail_top, tail, inverse_t, fields, n, valid, K: tl.constexpr):
    """The statistics of one row in float64; see `_moments` and `_log_partition` in closing.py.

    The head is `x` where rank < K; the sums `tail` are relative to the tail's largest, `tail_top`.
    """
    head = rank < K
    others = head & (rank > 0)  # the first contributes the 1 of log1p
    d = tl.where(head, x.to(tl.float64) - top.to(tl.float64), 0.0)
    gap = tail_top.to(tl.float64) - top.to(tl.float64)
    w0, w1, w2 = tail[0], tail[1] * LN_2, tail[2] * (LN_2 * LN_2)
    log_partition = _log1p(tl.sum(tl.where(others, tl.exp(d), 0.0)) + tl.exp(gap) * w0)

    p, q = tl.where(head, tl.exp(d - log_partition), 0.0), tl.exp(gap - log_partition)
    mean = tl.sum(p * d) + q * (w1 + gap * w0)
    b = gap - mean
    varentropy = tl.sum(p * (d - mean) * (d - mean)) + q * (w2 + 2 * b * w1 + b * b * w0)
    nan = float("nan")
    tl.store(fields, tl.where(valid, top, nan))
    tl.store(fields + n, tl.where(valid, log_partition, nan).to(tl.float32))
    tl.store(fields + 2 * n, tl.where(valid, log_partition - mean, nan).to(tl.float32))
    tl.store(fields + 3 * n, tl.where(valid, tl.maximum(varentropy, 0.0), nan).to(tl.float32))
    tl.store(fields + 4 * n, tl.where(valid, gap + tl.log(w0) - log_partition, nan).to(tl.float32))
    for i in tl.static_range(len(inverse_t)):
        t = inverse_t[i]
        at = tl.sum(tl.where(others, tl.exp(d * t), 0.0)) + tl.exp(gap * t) * tail[3 + i]
        tl.store(fields + (5 + i) * n, tl.where(valid, _log1p(at), nan).to(tl.float32))


@triton.jit
def _write_head(top_logits, top_ids, keys, rank, live, ok, K: tl.constexpr, KP: tl.constexpr):
    """Ranks below K, then -inf and -1; NaN and -1 for a row that is not valid."""
    writes = rank < K
    tl.store(top_logits + rank, _value(keys), mask=writes)
    tl.store(top_ids + rank, _index(keys), mask=writes)
    at = tl.arange(0, KP)
    pad = (at < K) & (at >= live)
    tl.store(top_logits + at, tl.where(ok, -float("inf"), float("nan")), mask=pad)
    tl.store(top_ids + at, -1, mask=pad)


@triton.jit(do_not_specialize=["stride", "size", "steps", "lanes"])
def _finalise(logits, stride, size, steps, lanes, inverse_t, lane_sums, lane_groups,
              chosen, found, ranked, fields, valid, top_logits, top_ids, K: tl.constexpr,
              KP: tl.constexpr, BLOCK: tl.constexpr, E: tl.constexpr,
              ALIGNED: tl.constexpr):  # fmt: skip
    """One row from its lanes: select, read the selected lanes again, close."""
    SPLIT: tl.constexpr = LANES // KP  # slots (threads) that share a selected lane
    LIST: tl.constexpr = 2 * KP
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E)
    chosen += row_id * KP
    found += row_id * LIST
    ranked += row_id * LIST

    # K to KP lanes, those that come first (or all).
    lane = tl.arange(0, BLOCK)
    lane_sums += row_id * lanes * (4 + len(inverse_t))
    largest = tl.load(lane_sums + lane, mask=lane < lanes, other=-float("inf"))
    first = tl.load(lane_groups + row_id * lanes + lane, mask=lane < lanes, other=0)
    keys = _key(largest, first)
    key, count = _select(keys, K, KP)
    taken = (keys >= key) & (keys != NOTHING)
    home = lane // LANES * (steps * LANES) + lane % LANES  # a lane's first group
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(chosen + place, home, mask=taken & (place < KP))
    tl.debug_barrier()
    slot = tl.arange(0, LANES)
    slot_group = tl.load(chosen + slot // SPLIT, mask=slot // SPLIT < count, other=-1)
    phase = slot % SPLIT

    # Their groups that reach the key: K or more (or all), but no more than fit. The key that fewer
    # than K lanes reach is no bound: these may hold many such groups. None reaches `high`.
    high = tl.max(keys) + 1
    reached, rest_top = _survey(row, slot_group, phase, steps, size, key, E, SPLIT, ALIGNED)
    count = tl.sum(reached)
    while (count >= LIST) & (key + 1 < high):
        middle = _middle(key, high)
        now, now_top = _survey(row, slot_group, phase, steps, size, middle, E, SPLIT, ALIGNED)
        enough = tl.sum(now) >= K
        key, high = tl.where(enough, middle, key), tl.where(enough, high, middle)
        count = tl.where(enough, tl.sum(now), count)
        reached = tl.where(enough, now, reached)
        rest_top = tl.where(enough, now_top, rest_top)
    place = tl.cumsum(reached, 0) - reached
    rest = _collect(found, place, row, slot_group, phase, steps, size, key, rest_top, inverse_t,
                    E, SPLIT, LIST, ALIGNED)  # fmt: skip
    tl.debug_barrier()

    # The candidates: the logits of these groups, and the V % E last ones. K to LIST come first.
    at = tl.arange(0, LIST)
    group = tl.load(found + at, mask=at < count, other=size // E)
    ids = group[:, None] * E + tl.arange(0, E)[None, :]
    inside = (at <= count)[:, None] & (ids < size)
    x = tl.load(row + ids, mask=inside, other=-float("inf")).to(tl.float32)  # [LIST, E]
    tile = _key(x, ids)
    key, live = _select(tile, K, LIST)
    near = tl.reshape((tile >= key) & (tile != NOTHING), [LIST * E])
    place = tl.cumsum(near.to(tl.int32), 0) - 1
    tl.store(ranked + place, tl.reshape(tile, [LIST * E]), mask=near & (place < LIST))
    tl.debug_barrier()
    keys = tl.load(ranked + at, mask=at < live, other=NOTHING)
    rank = tl.zeros([LIST], tl.int32)
    for i in tl.range(0, live, loop_unroll_factor=4):
        rank += (tl.load(ranked + i) > keys).to(tl.int32)
    rank = tl.where(keys != NOTHING, rank, LIST)
    last = tl.max(tl.where(rank == K - 1, keys, NOTHING))
    extra = tl.where((tile < last) & (tile != NOTHING), x, -float("inf"))

    # The tail: lanes not taken, the other groups of those taken, the other candidates.
    lane_s = ()
    for i in tl.static_range(3 + len(inverse_t)):
        s = tl.load(lane_sums + (1 + i) * lanes + lane, mask=lane < lanes, other=0.0)
        lane_s = lane_s + (s,)
    bad = tl.sum((lane_s[0] - lane_s[0] != 0).to(tl.int32))  # NaN or inf
    bad += tl.sum(((x != x) | (x == float("inf"))).to(tl.int32))
    top = tl.max(tl.where(keys != NOTHING, _value(keys), -float("inf")))
    # More than fit can not be; if they were, no number would come of it.
    ok = (bad == 0) & (top > -float("inf")) & (count < LIST) & (live <= LIST)
    unread = tl.where(taken, -float("inf"), largest)
    extra_top = tl.max(extra, 1)
    tail_top = tl.maximum(tl.maximum(tl.max(unread), tl.max(rest_top)), tl.max(extra_top))
    tail_top = tl.where(tail_top > -float("inf"), tail_top, top)
    zeros = (tl.zeros([LIST], tl.float32),) * (3 + len(inverse_t))
    below = (extra - tl.maximum(extra_top, LOWEST)[:, None]) * LOG2_E
    extras = _add(zeros, below, inverse_t)
    a = _total(lane_s, unread, tail_top, inverse_t)
    b = _total(rest, rest_top, tail_top, inverse_t)
    c = _total(extras, extra_top, tail_top, inverse_t)
    tail = ()
    for i in tl.static_range(3 + len(inverse_t)):
        tail = tail + (a[i] + b[i] + c[i],)

    rank = tl.where(ok, rank, LIST)
    tl.store(valid + row_id, ok)
    _write_head(top_logits + row_id * K, top_ids + row_id * K, keys, rank, tl.where(ok, live, 0),
                ok, K, KP)  # fmt: skip
    _close(_value(keys), rank, top, tail_top, tail, inverse_t, fields + row_id,
           tl.num_programs(0).to(tl.int64), ok, K)  # fmt: skip

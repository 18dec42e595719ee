"""The Triton backend: each logit is read once by `_scan`; then one small program a row.

A row is cut into groups of E = 16 bytes; group g belongs to lane g % LANES of a segment, a thread
each. `_scan` leaves a lane's largest logit, the group where it came first, and online sums. A lane
holds no better logit than its largest, so the top K logits lie in the K lanes whose (largest, group)
come first. `_finalise` selects these lanes, reads them again (some percent of the row), selects the
top K, sums the rest directly, and closes the formulas in float64. `_rank` counts the rank of
targets outside the top K. The V % E last logits are in no lane; they are always candidates.

Nothing depends on N or on the row's place: the same bits for every batch size and order.
"""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import PositionStats

MAX_TOP_K = 128
UNROLL = 32  # logits a lane takes for one rescaling of its sums
SEGMENTS, SEGMENT = 8, 8192  # at most so many segments a row, at least so many logits in each
LANES = tl.constexpr(128)  # = the threads of a program
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Exponents (base 2) are cut here: 1e-38 of the largest term is nothing, 0 * -inf would be NaN.
LEAST = tl.constexpr(-126.0)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # instead of -inf as a shift: -inf - -inf is NaN
BOTTOM = tl.constexpr(-0x7F7FFFFF << 32)  # the key of the lowest finite number at the last index
NOTHING = tl.constexpr(-(2**63))  # below every key
MASK_31 = tl.constexpr(2**31 - 1)
MASK_63 = tl.constexpr(2**63 - 1)


@triton.jit
def _row(logits, stride, E: tl.constexpr, ALIGNED: tl.constexpr):
    """Where the program's row begins. 16-byte loads need rows that begin on 16 bytes."""
    offset = tl.program_id(0).to(tl.int64) * stride
    return logits + (tl.multiple_of(offset, E) if ALIGNED else offset)


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
def _add(sums, x, shift, inverse_t):
    """`sums` = of w, w y, w y^2, and w^(1/T), plus those of tile x over its last dimension.

    y = (x - shift) log2 e, w = 2^y. NaN and +inf make the sums NaN.
    """
    below = (x - shift) * LOG2_E
    y = tl.maximum(below, LEAST, propagate_nan=tl.PropagateNan.ALL)
    w = tl.exp2(y)
    wy = w * y
    result = (sums[0] + tl.sum(w, 1), sums[1] + tl.sum(wy, 1), sums[2] + tl.sum(wy * y, 1))
    for i in tl.static_range(len(inverse_t)):
        result = result + (sums[3 + i] + tl.sum(tl.exp2(below * inverse_t[i]), 1),)
    return result


@triton.jit
def _rescale(sums, old, new, inverse_t):
    """The sums relative to `new` instead of `old`."""
    below = (tl.maximum(old, LOWEST) - new) * LOG2_E
    d = tl.maximum(below, LEAST)
    w = tl.exp2(d)
    s0, s1, s2 = sums[0], sums[1], sums[2]
    result = (w * s0, w * (s1 + d * s0), w * (s2 + d * (2 * s1 + d * s0)))
    for i in tl.static_range(len(inverse_t)):
        result = result + (sums[3 + i] * tl.exp2(below * inverse_t[i]),)
    return result


@triton.jit
def _advance(top, first, sums, row, step, groups, inverse_t, E: tl.constexpr, U: tl.constexpr,
             MASKED: tl.constexpr):  # fmt: skip
    """Take U steps into the lanes' state."""
    lane = tl.arange(0, LANES)
    offset = lane[:, None] * E + tl.arange(0, E)[None, :]  # [LANES, E]
    start = row + step * (LANES * E)  # ids, and so offsets in a row, are int32
    x = ()
    for u in tl.static_range(U):
        if MASKED:
            inside = (lane + (step + u) * LANES < groups)[:, None]
            tile = tl.load(start + u * LANES * E + offset, mask=inside, other=-float("inf"))
        else:
            tile = tl.load(start + u * LANES * E + offset)
        x = x + (tile.to(tl.float32),)
    new = top
    for u in tl.static_range(U):
        best = tl.max(x[u], 1)
        first = tl.where(best > new, step + u, first)
        new = tl.maximum(new, best)
    shift = tl.maximum(new, LOWEST)
    zero = tl.zeros([LANES], tl.float32)
    added = (zero,) * (3 + len(inverse_t))
    for u in tl.static_range(U):
        added = _add(added, x[u], shift[:, None], inverse_t)
    old = _rescale(sums, top, shift, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        result = result + (old[i] + added[i],)
    return new, first, result


@triton.jit(do_not_specialize=["stride", "groups", "steps"])
def _scan(logits, stride, groups, steps, inverse_t, lane_sums, lane_groups, E: tl.constexpr,
          U: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """One segment of a row: lane_sums [N, 4 + T, lanes] (largest, sums), lane_groups [N, lanes]."""
    row = _row(logits, stride, E, ALIGNED)
    lane = tl.arange(0, LANES)
    top = tl.full([LANES], -float("inf"), tl.float32)
    first = tl.zeros([LANES], tl.int32)
    sums = (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))

    start = tl.program_id(1) * steps
    full = tl.maximum(tl.minimum(steps, groups // LANES - start), 0) // U * U
    stop = tl.minimum(start + steps, tl.cdiv(groups, LANES))
    for step in range(start, start + full, U):
        top, first, sums = _advance(top, first, sums, row, step, groups, inverse_t, E, U, False)
    for step in range(start + full, stop):
        top, first, sums = _advance(top, first, sums, row, step, groups, inverse_t, E, 1, True)

    lanes = tl.num_programs(1) * LANES
    at = tl.program_id(0).to(tl.int64) * lanes + tl.program_id(1) * LANES + lane
    tl.store(lane_groups + at, first * LANES + lane)
    at += tl.program_id(0).to(tl.int64) * lanes * (3 + len(inverse_t))
    tl.store(lane_sums + at, top)
    for i in tl.static_range(3 + len(inverse_t)):
        tl.store(lane_sums + at + (1 + i) * lanes, sums[i])


@triton.jit
def _select(keys, k, most):
    """A key that k..most of the keys reach, one that < k reach, and how many reach the first.

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
    return low, high, count


@triton.jit
def _tile(row, slot_group, phase, step, steps, groups, E: tl.constexpr, SPLIT: tl.constexpr):
    """What each slot reads in one step: logits [LANES, E] or -inf, their groups [LANES]."""
    own = step * SPLIT + phase
    group = slot_group + own * LANES
    inside = (slot_group >= 0) & (own < steps) & (group < groups)
    offset = group[:, None] * E + tl.arange(0, E)[None, :]
    x = tl.load(row + offset, mask=inside[:, None], other=-float("inf")).to(tl.float32)
    return x, group


@triton.jit
def _reaches(best, group, key):
    """Which groups, of largest logits `best`, come at or before `key`."""
    value = _value(key)
    return (best > value) | ((best == value) & (group <= _index(key)))


@triton.jit
def _survey(row, slot_group, phase, steps, groups, key, E: tl.constexpr, SPLIT: tl.constexpr):
    """In each slot: how many groups reach `key`, and the largest logit of the others."""
    reached = tl.zeros([LANES], tl.int32)
    rest_top = tl.full([LANES], -float("inf"), tl.float32)
    for step in tl.range(0, tl.cdiv(steps, SPLIT), loop_unroll_factor=2):
        x, group = _tile(row, slot_group, phase, step, steps, groups, E, SPLIT)
        best = tl.max(x, 1)
        hit = _reaches(best, group, key)
        reached += hit.to(tl.int32)
        rest_top = tl.maximum(rest_top, tl.where(hit, -float("inf"), best))
    return reached, rest_top


@triton.jit
def _collect(found, place, row, slot_group, phase, steps, groups, key, rest_top, inverse_t,
             E: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """Write the groups that reach `key` to found[place:]; return the sums over the others."""
    sums = (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))
    shift = tl.maximum(rest_top, LOWEST)
    for step in tl.range(0, tl.cdiv(steps, SPLIT), loop_unroll_factor=2):
        x, group = _tile(row, slot_group, phase, step, steps, groups, E, SPLIT)
        hit = _reaches(tl.max(x, 1), group, key)
        tl.store(found + place, group, mask=hit)
        place += hit.to(tl.int32)
        sums = _add(sums, x, tl.where(hit, float("inf"), shift)[:, None], inverse_t)
    return sums


@triton.jit
def _total(sums, tops, shift, inverse_t):
    """Float64 totals relative to `shift` of sums [n] that are each relative to its own top."""
    sums = _rescale(sums, tops, shift, inverse_t)
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


@triton.jit(do_not_specialize=["stride", "size", "groups", "steps", "lanes"])
def _finalise(logits, stride, size, groups, steps, lanes, inverse_t, lane_sums, lane_groups,
              chosen, found, ranked, fields, valid, top_logits, top_ids, K: tl.constexpr,
              KP: tl.constexpr, BLOCK: tl.constexpr, E: tl.constexpr,
              ALIGNED: tl.constexpr):  # fmt: skip
    """One row from its lanes: select, read the selected lanes again, close."""
    SPLIT: tl.constexpr = LANES // KP  # slots (threads) that share a selected lane
    LIST: tl.constexpr = 2 * KP
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E, ALIGNED)
    chosen += row_id * KP
    found += row_id * LIST
    ranked += row_id * LIST

    # K to KP lanes, those that come first (or all).
    lane = tl.arange(0, BLOCK)
    lane_sums += row_id * lanes * (4 + len(inverse_t))
    largest = tl.load(lane_sums + lane, mask=lane < lanes, other=-float("inf"))
    first = tl.load(lane_groups + row_id * lanes + lane, mask=lane < lanes, other=0)
    keys = _key(largest, first)
    key, high, count = _select(keys, K, KP)
    taken = (keys >= key) & (keys != NOTHING)
    home = lane // LANES * (steps * LANES) + lane % LANES  # a lane's first group
    tl.store(chosen + tl.cumsum(taken.to(tl.int32), 0) - 1, home, mask=taken)
    tl.debug_barrier()
    slot = tl.arange(0, LANES)
    slot_group = tl.load(chosen + slot // SPLIT, mask=slot // SPLIT < count, other=-1)
    phase = slot % SPLIT

    # Their groups that reach the key: K or more (or all), but no more than fit.
    reached, rest_top = _survey(row, slot_group, phase, steps, groups, key, E, SPLIT)
    count = tl.sum(reached)
    while (count >= LIST) & (key + 1 < high):
        middle = _middle(key, high)
        now, now_top = _survey(row, slot_group, phase, steps, groups, middle, E, SPLIT)
        enough = tl.sum(now) >= K
        key, high = tl.where(enough, middle, key), tl.where(enough, high, middle)
        count = tl.where(enough, tl.sum(now), count)
        reached = tl.where(enough, now, reached)
        rest_top = tl.where(enough, now_top, rest_top)
    place = tl.cumsum(reached, 0) - reached
    rest = _collect(found, place, row, slot_group, phase, steps, groups, key, rest_top, inverse_t,
                    E, SPLIT)  # fmt: skip
    tl.debug_barrier()

    # The candidates: the logits of these groups, and the V % E last ones. K to LIST come first.
    at = tl.arange(0, LIST)
    group = tl.load(found + at, mask=at < count, other=groups)
    ids = group[:, None] * E + tl.arange(0, E)[None, :]
    inside = (at <= count)[:, None] & (ids < size)
    x = tl.load(row + ids, mask=inside, other=-float("inf")).to(tl.float32)  # [LIST, E]
    tile = _key(x, ids)
    key, high, live = _select(tile, K, LIST)
    near = tl.reshape((tile >= key) & (tile != NOTHING), [LIST * E])
    place = tl.cumsum(near.to(tl.int32), 0) - 1
    tl.store(ranked + place, tl.reshape(tile, [LIST * E]), mask=near)
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
    ok = (bad == 0) & (top > -float("inf"))
    unread = tl.where(taken, -float("inf"), largest)
    extra_top = tl.max(extra, 1)
    tail_top = tl.maximum(tl.maximum(tl.max(unread), tl.max(rest_top)), tl.max(extra_top))
    tail_top = tl.where(tail_top > -float("inf"), tail_top, top)
    zeros = (tl.zeros([LIST], tl.float32),) * (3 + len(inverse_t))
    extras = _add(zeros, extra, tl.maximum(extra_top, LOWEST)[:, None], inverse_t)
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


@triton.jit(do_not_specialize=["stride", "size", "groups"])
def _rank(logits, stride, size, groups, targets, fields, valid, top_ids, target_logprob,
          target_rank, K: tl.constexpr, KP: tl.constexpr, E: tl.constexpr,
          ALIGNED: tl.constexpr):  # fmt: skip
    """The target's log-probability, and its rank: among the top ids, else counted over the row."""
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E, ALIGNED)
    target = tl.load(targets + row_id).to(tl.int32)
    value = tl.load(row + target).to(tl.float32)
    top = tl.load(fields + row_id).to(tl.float64)
    log_partition = tl.load(fields + tl.num_programs(0) + row_id).to(tl.float64)
    tl.store(target_logprob + row_id, (value.to(tl.float64) - top - log_partition).to(tl.float32))

    at = tl.arange(0, KP)
    ids = tl.load(top_ids + row_id * K + at, mask=at < K, other=-1)
    rank = tl.sum(tl.where(ids == target, at + 1, 0))
    ok = tl.load(valid + row_id)
    if ok & (rank == 0):
        # Before the target's group a tie counts, after it does not; its own is counted apart.
        home = target // E
        above = _value((_ordered(value).to(tl.int64) + 1) << 32)
        lane = tl.arange(0, LANES)
        column = tl.arange(0, E)
        before = tl.zeros([LANES], tl.int32)
        for start in tl.range(0, groups, LANES, loop_unroll_factor=4):
            group = lane + start
            offset = group[:, None] * E + column[None, :]
            x = tl.load(row + offset, mask=(group < groups)[:, None], other=float("nan"))
            least = tl.where(group < home, value, above)
            before += tl.sum((x.to(tl.float32) >= least[:, None]).to(tl.int32), 1)
        rank = tl.sum(before) + 1
        own = home * E + column
        x = tl.load(row + own, mask=own < target, other=float("nan")).to(tl.float32)
        rank += tl.sum((x == value).to(tl.int32))
        last = groups * E + column
        x = tl.load(row + last, mask=last < size, other=float("nan")).to(tl.float32)
        rank += tl.sum((x >= tl.where(groups < home, value, above)).to(tl.int32))
    tl.store(target_rank + row_id, tl.where(ok, rank, -1))


def geometry(size: int, itemsize: int) -> tuple[int, int, int, int]:
    """Logits a group, groups a row, steps a segment, segments a row; from V and the dtype alone."""
    per_group = 16 // itemsize
    groups = size // per_group
    whole = LANES.value * UNROLL  # logits that all lanes take for one rescaling
    segment = triton.cdiv(max(SEGMENT, triton.cdiv(size, SEGMENTS)), whole) * whole
    segments = max(1, triton.cdiv(groups * per_group, segment))
    steps = min(segment // (LANES.value * per_group), max(1, triton.cdiv(groups, LANES.value)))
    return per_group, groups, steps, segments


def position_stats(
    logits: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """See `ssd_probe.kernels.stats.position_stats`, which has checked the arguments.

    Reads the logits once, some percent of them twice; the host never waits for the device.
    Errors: `UserError` for top_k > 128.
    """
    if top_k > MAX_TOP_K:
        raise UserError(f'top_k = {top_k}: at most {MAX_TOP_K} on a GPU; use backend="torch"')
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    n, size = logits.shape
    stride, itemsize = logits.stride(0), logits.element_size()
    per_group, groups, steps, segments = geometry(size, itemsize)
    lanes, kp = segments * LANES.value, max(16, triton.next_power_of_2(top_k))
    inverse_t = tuple(1 / t for t in temperatures)
    shared = {
        "E": per_group,
        "ALIGNED": stride * itemsize % 16 == 0 and logits.data_ptr() % 16 == 0,
        "num_warps": LANES.value // (64 if torch.version.hip else 32),
        "enable_fp_fusion": True,
    }

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    lane_sums = empty(n, 4 + len(temperatures), lanes)
    lane_groups = empty(n, lanes, dtype=torch.int32)
    chosen, found = empty(n, kp, dtype=torch.int32), empty(n, 2 * kp, dtype=torch.int32)
    ranked = empty(n, 2 * kp, dtype=torch.int64)
    fields = empty(5 + len(temperatures), n)
    valid = empty(n, dtype=torch.bool)
    top_logits, top_ids = empty(n, top_k), empty(n, top_k, dtype=torch.int32)
    with torch.cuda.device_of(logits):
        _scan[n, segments](
            logits, stride, groups, steps, inverse_t, lane_sums, lane_groups,
            U=UNROLL // per_group, **shared,
        )  # fmt: skip
        _finalise[n,](
            logits, stride, size, groups, steps, lanes, inverse_t, lane_sums, lane_groups, chosen,
            found, ranked, fields, valid, top_logits, top_ids, K=top_k, KP=kp,
            BLOCK=triton.next_power_of_2(lanes), **shared,
        )  # fmt: skip
        stats = PositionStats(
            max_logit=fields[0], log_partition=fields[1], entropy=fields[2], varentropy=fields[3],
            tail_log_mass=fields[4], top_logits=top_logits, top_ids=top_ids, valid=valid,
            temperatures=temperatures, log_partition_at=fields[5:].T,
        )  # fmt: skip
        if targets is not None:
            stats.target_logprob, stats.target_rank = empty(n), empty(n, dtype=torch.int32)
            _rank[n,](
                logits, stride, size, groups, targets, fields, valid, top_ids,
                stats.target_logprob, stats.target_rank, K=top_k, KP=kp, **shared,
            )  # fmt: skip
    return stats

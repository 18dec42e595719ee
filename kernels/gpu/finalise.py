"""From a row's lanes to its statistics: Triton kernel `_finalise`, and keys that order logits."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.scan import (
    LANES,
    LOG2_E,
    LOWEST,
    _add,
    _best,
    _groups,
    _lanes,
    _rescale,
    _row,
)

LN_2 = tl.constexpr(0.6931471805599453)
INT_MAX = tl.constexpr(2**31 - 1)
NOTHING = tl.constexpr(-(2**63))  # below every key


@triton.jit
def _ordered(x):
    """Float32 -> int32 in the same order, -0.0 as 0.0; its own inverse on the bits."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -(2**31) - bits, bits)


@triton.jit
def _order(x, E: tl.constexpr):
    """int32 in the order of logits x, NaN as -inf; the 13 bits that 16-bit logits lack are gone."""
    return _ordered(tl.where(x > -float("inf"), x, -float("inf"))) >> (13 if E == 8 else 0)


@triton.jit
def _empty(E: tl.constexpr):
    """`_order` of -inf."""
    return -0x7F800000 >> (13 if E == 8 else 0)


@triton.jit
def _key(x, index):
    """int64 keys by (value descending, index ascending)."""
    return (_ordered(x).to(tl.int64) << 32) + (-index + INT_MAX)


@triton.jit
def _value(key):
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _index(key):
    return (-(key & 0xFFFFFFFF) + INT_MAX).to(tl.int32)


@triton.jit
def _count(mask):
    return tl.sum(mask.to(tl.int32))


@triton.jit
def _middle(low, high):
    return (low >> 1) + (high >> 1) + (low & high & 1)  # low + high overflows


@triton.jit
def _reaches(order, ids, cut, last):
    """Which come at or before (cut, last), by (order descending, id ascending)."""
    return (order > cut) | ((order == cut) & (ids <= last))


@triton.jit
def _at_least(order, least):
    """How many of the orders, a tuple of tensors [n], are at least `least`."""
    reached = (order[0] >= least).to(tl.int32)
    for i in tl.static_range(1, len(order)):
        reached += (order[i] >= least).to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _select(order, ids, low, k, most):
    """(cut, last) that k..most of the entries reach, and how many do; tuples of tensors [n].

    All that are at least `low`, if they are no more than `most`. By value first, then by id among
    the entries of one value.
    """
    high = tl.max(order[0])
    for i in tl.static_range(1, len(order)):
        high = tl.maximum(high, tl.max(order[i]))
    high += 1
    count = _at_least(order, low)
    last = INT_MAX + 0 * count
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = _at_least(order, middle)
        low = tl.where(reached >= k, middle, low)
        count = tl.where(reached >= k, reached, count)
        high = tl.where(reached >= k, high, middle)
    if count > most:
        above = _at_least(order, low + 1)
        before = -1 + 0 * count
        tied = ()  # by -id: the more, the earlier
        for i in tl.static_range(len(order)):
            tied = tied + (tl.where(order[i] == low, -ids[i], -INT_MAX),)
        while (count > most) & (before + 1 < last):
            middle = _middle(before, last)
            reached = above + _at_least(tied, -middle)
            before = tl.where(reached >= k, before, middle)
            last = tl.where(reached >= k, middle, last)
            count = tl.where(reached >= k, reached, count)
    return low, last, count


@triton.jit
def _lane_order(values, groups, lanes, BLOCK: tl.constexpr, E: tl.constexpr):
    """Of each lane [BLOCK]: its number, largest logit, that in order, and its first group."""
    lane = tl.arange(0, BLOCK)
    largest = tl.load(values + lane, mask=lane < lanes, other=-float("inf"))
    first = tl.load(groups + lane, mask=lane < lanes, other=0)
    return lane, largest, _order(largest, E), first


@triton.jit
def _choose(values, groups, lanes, steps, chosen, k, most, BLOCK: tl.constexpr, E: tl.constexpr):
    """Write the first groups of the k..most lanes that come first (or all) to `chosen`.

    Returns (cut, last) that they reach, their number, and an order that none reaches.
    """
    lane, _, order, first = _lane_order(values, groups, lanes, BLOCK, E)
    low = tl.min(tl.where(order > _empty(E), order, INT_MAX))
    cut, last, held = _select((order,), (first,), low, k, most)
    taken = _reaches(order, first, cut, last)
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    home = lane // LANES * (steps * LANES) + lane % LANES
    tl.store(chosen + place, home, mask=taken & (place < most))
    return cut, last, held, tl.max(order) + 1


@triton.jit
def _unread(values, groups, lanes, cut, last, inverse_t, BLOCK: tl.constexpr, E: tl.constexpr):
    """`_total` of the lanes that do not reach (cut, last), and how many lanes hold NaN or inf."""
    lane, largest, order, first = _lane_order(values, groups, lanes, BLOCK, E)
    sums = ()
    for i in tl.static_range(3 + len(inverse_t)):
        s = tl.load(values + (1 + i) * lanes + lane, mask=lane < lanes, other=0.0)
        sums = sums + (s,)
    unread = tl.where(_reaches(order, first, cut, last), -float("inf"), largest)
    top, total = _total(sums, unread, inverse_t)
    return top, total, _count(sums[0] - sums[0] != 0)


@triton.jit
def _homes(chosen, begin, held, steps, size, E: tl.constexpr, W: tl.constexpr):
    """The first groups of W chosen lanes, and the groups where they end."""
    slot = begin + tl.arange(0, W)
    home = tl.load(chosen + slot, mask=slot < held, other=INT_MAX // 2)
    return home, tl.minimum(home + steps * LANES, size // E)


@triton.jit
def _survey(row, chosen, held, steps, size, cut, last, E: tl.constexpr, U: tl.constexpr,
            W: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """How many groups of the chosen lanes reach (cut, last)."""
    reached = tl.zeros([W], tl.int32)
    for begin in tl.range(0, held, W):
        home, end = _homes(chosen, begin, held, steps, size, E, W)
        for step in tl.range(0, steps, U):
            for u in tl.static_range(U):
                group = home + (step + u) * LANES
                x = _groups(row, group, group < end, size, E, True, ALIGNED)
                reached += _reaches(_order(_best(x), E), group, cut, last).to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _narrow(row, chosen, held, steps, size, cut, last, high, k, most, E: tl.constexpr,
            U: tl.constexpr, W: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """A (cut, last) that k..most of the chosen lanes' groups reach; more reach the one given.

    As in `_select`, reading the lanes for each count. No group reaches `high`.
    """
    count = most + 1
    low = cut
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = _survey(row, chosen, held, steps, size, middle, INT_MAX, E, U, W, ALIGNED)
        count = tl.where(reached >= k, reached, count)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle)
    last = tl.where(low > cut, INT_MAX, last)
    if count > most:
        before = -1 + 0 * count
        last = tl.minimum(last, size // E)
        while (count > most) & (before + 1 < last):
            middle = _middle(before, last)
            reached = _survey(row, chosen, held, steps, size, low, middle, E, U, W, ALIGNED)
            count = tl.where(reached >= k, reached, count)
            before = tl.where(reached >= k, before, middle)
            last = tl.where(reached >= k, middle, last)
    return low, last


@triton.jit
def _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E: tl.constexpr,
             U: tl.constexpr, W: tl.constexpr, LIST: tl.constexpr,
             ALIGNED: tl.constexpr):  # fmt: skip
    """Write the chosen lanes' groups that reach (cut, last) to `found`, the first LIST of them.

    Returns how many there are; of the others, each thread's largest logit and sums [W].
    """
    top = tl.full([W], -float("inf"), tl.float32)
    sums = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
    count = 0 * held
    for begin in tl.range(0, held, W):
        home, end = _homes(chosen, begin, held, steps, size, E, W)
        for step in tl.range(0, steps, U):
            x, rest = (), ()
            hits = tl.zeros([W], tl.int32)
            new = top
            for u in tl.static_range(U):
                group = home + (step + u) * LANES
                tiles = _groups(row, group, group < end, size, E, True, ALIGNED)
                best = _best(tiles)
                hit = _reaches(_order(best, E), group, cut, last)
                new = tl.maximum(new, tl.where(hit, -float("inf"), best))
                hits += hit.to(tl.int32)
                x, rest = x + (tiles,), rest + (hit,)
            place = count + tl.cumsum(hits, 0) - hits
            count += tl.sum(hits)
            shift = tl.maximum(new, LOWEST)
            added = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
            for u in tl.static_range(U):
                tl.store(found + place, home + (step + u) * LANES, mask=rest[u] & (place < LIST))
                place += rest[u].to(tl.int32)
                under = tl.where(rest[u], float("inf"), shift)[:, None]
                for tile in tl.static_range(len(x[u])):
                    added = _add(added, (x[u][tile] - under) * LOG2_E, inverse_t)
            old = _rescale(sums, (tl.maximum(top, LOWEST) - shift) * LOG2_E, inverse_t)
            sums = ()
            for i in tl.static_range(3 + len(inverse_t)):
                sums = sums + (old[i] + added[i],)
            top = new
    return count, top, sums


@triton.jit
def _total(sums, tops, inverse_t):
    """The largest of `tops` [n], or LOWEST, and float64 totals relative to it of `sums` [n]."""
    top = tl.maximum(tl.max(tops), LOWEST)
    sums = _rescale(sums, (tl.maximum(tops, LOWEST) - top) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        part = tl.where(tops > -float("inf"), sums[i], 0.0)
        result = result + (tl.sum(part.to(tl.float64)),)
    return top, result


@triton.jit
def _plus(sums, top, others, shift, inverse_t):
    """`sums` + `others`, which are relative to `shift`; both relative to `top` hereafter."""
    moved = _rescale(others, (shift - top) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        result = result + (sums[i] + moved[i],)
    return result


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0 to the last digits of a float64 (W. Kahan)."""
    w = 1 + x
    return tl.where(w == 1, x, tl.log(w) * (x / (w - 1)))


@triton.jit
def _close(fields, n, x, at, live, top, tail_top, tail, inverse_t, ok, K: tl.constexpr):
    """The statistics of one row in float64; see `_moments` and `_log_partition` in closing.py.

    The head is `x` at ranks `at` < K, of which `live` there are; the sums `tail` are relative to
    the tail's largest, `tail_top`.
    """
    head = (at < K) & (at < live)
    others = head & (at > 0)  # the first contributes the 1 of log1p
    d = tl.where(head, x.to(tl.float64) - top.to(tl.float64), 0.0)
    gap = tail_top.to(tl.float64) - top.to(tl.float64)
    w0, w1, w2 = tail[0], tail[1] * LN_2, tail[2] * (LN_2 * LN_2)
    log_partition = _log1p(tl.sum(tl.where(others, tl.exp(d), 0.0)) + tl.exp(gap) * w0)

    p, q = tl.where(head, tl.exp(d - log_partition), 0.0), tl.exp(gap - log_partition)
    mean = tl.sum(p * d) + q * (w1 + gap * w0)
    b = gap - mean
    varentropy = tl.sum(p * (d - mean) * (d - mean)) + q * (w2 + 2 * b * w1 + b * b * w0)
    nan = float("nan")
    tl.store(fields, tl.where(ok, top, nan))
    tl.store(fields + n, tl.where(ok, log_partition, nan).to(tl.float32))
    tl.store(fields + 2 * n, tl.where(ok, log_partition - mean, nan).to(tl.float32))
    tl.store(fields + 3 * n, tl.where(ok, tl.maximum(varentropy, 0.0), nan).to(tl.float32))
    tl.store(fields + 4 * n, tl.where(ok, gap + tl.log(w0) - log_partition, nan).to(tl.float32))
    for i in tl.static_range(len(inverse_t)):
        t = inverse_t[i]
        at_t = tl.sum(tl.where(others, tl.exp(d * t), 0.0)) + tl.exp(gap * t) * tail[3 + i]
        tl.store(fields + (5 + i) * n, tl.where(ok, _log1p(at_t), nan).to(tl.float32))


@triton.jit
def _candidates(row, size, found, count, E: tl.constexpr, LIST: tl.constexpr):
    """The logits of the groups found, and in the next place of the V % E last: E columns [LIST].

    Returns them as float32, their order, their ids, and how many of the V % E are NaN or +inf.
    """
    at = tl.arange(0, LIST)
    begin = tl.load(found + at, mask=at < count, other=size // E) * E
    stop = tl.where(at <= count, size, 0)
    x, order, ids, bad = (), (), (), 0 * count
    for i in tl.static_range(E):
        logit = tl.load(row + (begin + i), mask=begin + i < stop, other=-float("inf"))
        logit = logit.to(tl.float32)
        bad += _count((logit != logit) | (logit == float("inf")))
        x, order, ids = x + (logit,), order + (_order(logit, E),), ids + (begin + i,)
    return x, order, ids, bad


@triton.jit
def _keep(order, ids, x, cut, last, ranked, LIST: tl.constexpr):
    """Write the keys of the candidates that reach (cut, last) to `ranked`."""
    many = tl.zeros([LIST], tl.int32)
    for i in tl.static_range(len(x)):
        many += _reaches(order[i], ids[i], cut, last).to(tl.int32)
    place = tl.cumsum(many, 0) - many
    for i in tl.static_range(len(x)):
        near = _reaches(order[i], ids[i], cut, last)
        tl.store(ranked + place, _key(x[i], ids[i]), mask=near & (place < LIST))
        place += near.to(tl.int32)


@triton.jit
def _extras(order, ids, x, cut, last, inverse_t, E: tl.constexpr, LIST: tl.constexpr):
    """`_total` of the candidates that do not reach (cut, last)."""
    rest, tops = (), tl.full([LIST], -float("inf"), tl.float32)
    for i in tl.static_range(len(x)):
        out = _reaches(order[i], ids[i], cut, last) | (order[i] == _empty(E))
        rest = rest + (tl.where(out, -float("inf"), x[i]),)
        tops = tl.maximum(tops, rest[i])
    sums = (tl.zeros([LIST], tl.float32),) * (3 + len(inverse_t))
    for i in tl.static_range(len(x)):
        below = (rest[i] - tl.maximum(tops, LOWEST)) * LOG2_E
        sums = _add(sums, below[:, None], inverse_t)
    return _total(sums, tops, inverse_t)


@triton.jit
def _rank_keys(ranked, live, LIST: tl.constexpr, KP: tl.constexpr):
    """The `live` keys at `ranked`, in order: the first KP of them, else NOTHING."""
    at = tl.arange(0, LIST)
    keys = tl.load(ranked + at, mask=at < live, other=NOTHING)
    rank = tl.zeros([LIST], tl.int32)
    for i in tl.range(0, live, 4):
        four = i + tl.arange(0, 4)
        other = tl.load(ranked + four, mask=four < live, other=NOTHING)
        rank += tl.sum((other[None, :] > keys[:, None]).to(tl.int32), 1)
    tl.debug_barrier()
    tl.store(ranked + rank, keys, mask=(at < live) & (rank < KP))
    tl.debug_barrier()
    first = tl.arange(0, KP)
    return tl.load(ranked + first, mask=first < live, other=NOTHING)


@triton.jit(do_not_specialize=["stride", "size", "steps", "segments"])
def _finalise(logits, stride, size, steps, segments, inverse_t, scratch, fields, valid,
              top_logits, top_ids, K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr,
              E: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
              ALIGNED: tl.constexpr):  # fmt: skip
    """One row from its lanes, by one warp of W threads: select, read these lanes again, close."""
    LIST: tl.constexpr = 2 * KP
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E)
    lanes = segments * LANES
    values, groups = _lanes(scratch, lanes, 3 + len(inverse_t))
    chosen = scratch + tl.num_programs(0).to(tl.int64) * (lanes * (5 + len(inverse_t)))
    chosen = (chosen + row_id * (7 * KP)).to(tl.pointer_type(tl.int32), bitcast=True)
    found = chosen + KP
    ranked = (found + LIST).to(tl.pointer_type(tl.int64), bitcast=True)

    cut, last, held, high = _choose(values, groups, lanes, steps, chosen, K, KP, BLOCK, E)
    tl.debug_barrier()
    a_top, a, bad = _unread(values, groups, lanes, cut, last, inverse_t, BLOCK, E)

    # Their groups that reach (cut, last): K or more, but no more than fit; all if K lanes hold
    # nothing. K lanes may hold more: each its best one alone is sure to reach it.
    cut = tl.where(held < K, _empty(E) + 1, cut)
    count, tops, rest = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E, U,
                                 W, LIST, ALIGNED)  # fmt: skip
    if count >= LIST:
        cut, last = _narrow(row, chosen, held, steps, size, cut, last, high, K, LIST - 1, E, U, W,
                            ALIGNED)  # fmt: skip
        count, tops, rest = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t,
                                     E, U, W, LIST, ALIGNED)  # fmt: skip
    tl.debug_barrier()
    b_top, b = _total(rest, tops, inverse_t)

    # The candidates: the logits of these groups and the V % E last. K to LIST come first.
    x, order, ids, more = _candidates(row, size, found, count, E, LIST)
    cut = tl.where(count < K, _empty(E) + 1, cut)
    cut, last, live = _select(order, ids, cut, K, LIST)
    _keep(order, ids, x, cut, last, ranked, LIST)
    tl.debug_barrier()
    keys = _rank_keys(ranked, live, LIST, KP)
    at = tl.arange(0, KP)
    kth = tl.max(tl.where(at == K - 1, keys, NOTHING))
    cut = tl.where(live < K, _empty(E) + 1, _order(_value(kth), E))
    c_top, c = _extras(order, ids, x, cut, _index(kth), inverse_t, E, LIST)

    # The tail: lanes not taken, the other groups of those taken, the other candidates.
    top = tl.max(tl.where(at == 0, _value(keys), -float("inf")))
    # More than fit can not be; if they were, no number would come of it.
    ok = (bad + more == 0) & (live > 0) & (held <= KP) & (count < LIST) & (live <= LIST)
    tail_top = tl.maximum(tl.maximum(a_top, b_top), c_top)
    tail = _plus(_plus(_plus((0.0,) * (3 + len(inverse_t)), tail_top, a, a_top, inverse_t),
                       tail_top, b, b_top, inverse_t), tail_top, c, c_top, inverse_t)  # fmt: skip
    tail_top = tl.where(tail[0] > 0, tail_top, top)

    tl.store(valid + row_id, ok)
    in_head = ok & (at < live)
    missing = tl.where(ok, -float("inf"), float("nan"))
    writes = at < K
    tl.store(top_logits + row_id * K + at, tl.where(in_head, _value(keys), missing), mask=writes)
    tl.store(top_ids + row_id * K + at, tl.where(in_head, _index(keys), -1), mask=writes)
    _close(fields + row_id, tl.num_programs(0).to(tl.int64), _value(keys), at, live, top, tail_top,
           tail, inverse_t, ok, K)  # fmt: skip

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
    _below,
    _best,
    _groups,
    _lanes,
    _rescale,
    _row,
    _settle,
    _shift,
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
    """int32 in the order of logits x; the 13 bits that 16-bit logits lack are gone. NaN is some."""
    return _ordered(x) >> (13 if E == 8 else 0)


@triton.jit
def _logit(order, E: tl.constexpr):
    """The logit of an order."""
    bits = order << (13 if E == 8 else 0)
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _empty(E: tl.constexpr):
    """`_order` of -inf."""
    return -0x7F800000 >> (13 if E == 8 else 0)


@triton.jit
def _key(order, index, E: tl.constexpr):
    """int64 keys by (logit descending, index ascending)."""
    high = order << (13 if E == 8 else 0)
    return (high.to(tl.int64) << 32) + (-index + INT_MAX)


@triton.jit
def _value(key):
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _index(key):
    return (-(key & 0xFFFFFFFF) + INT_MAX).to(tl.int32)


@triton.jit
def _places(n: tl.constexpr):
    """0..n-1, one to a thread in turn: so scattered stores, in any order, exchange nothing."""
    return tl.max_contiguous(tl.arange(0, n), 1)


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
    return tiles, best, (best > cut) | ((best == cut) & (group <= last))


@triton.jit
def _survey(of, cut, last, E: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
            ALIGNED: tl.constexpr):  # fmt: skip
    """How many groups of the chosen lanes reach (cut, last)."""
    row, chosen, held, steps, size = of
    reached = tl.zeros([W], tl.int32)
    cut = _logit(cut, E)
    for begin in tl.range(0, held, W):
        home, end = _homes(chosen, begin, held, steps, size, W, E)
        for step in tl.range(0, steps, U):
            for u in tl.static_range(U):
                group = home + (step + u) * LANES
                _, _, hit = _again(row, group, end, cut, last, size, E, ALIGNED)
                reached += hit.to(tl.int32)
    return tl.sum(reached)


@triton.jit
def _narrow(COUNT: tl.constexpr, of, cut, last, high, k, most, E: tl.constexpr, U: tl.constexpr,
            W: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """A (cut, last) that k..most entries reach; more reach the one given, and none `high`.

    As in `_select`, but COUNT(of, cut, last, ...) reads them again each time.
    """
    count = most + 1
    low = cut
    while (count > most) & (low + 1 < high):
        middle = _middle(low, high)
        reached = COUNT(of, middle, INT_MAX, E, U, W, ALIGNED)
        count = tl.where(reached >= k, reached, count)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle)
    last = tl.where(low > cut, INT_MAX, last)
    before = -1 + 0 * last
    while (count > most) & (before + 1 < last):
        middle = _middle(before, last)
        reached = COUNT(of, low, middle, E, U, W, ALIGNED)
        count = tl.where(reached >= k, reached, count)
        before = tl.where(reached >= k, before, middle)
        last = tl.where(reached >= k, middle, last)
    return low, last


@triton.jit
def _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E: tl.constexpr,
             U: tl.constexpr, W: tl.constexpr, LIST: tl.constexpr, FUSED: tl.constexpr,
             ALIGNED: tl.constexpr):  # fmt: skip
    """Write the chosen lanes' groups that reach (cut, last) to `found`, the first LIST of them.

    Returns how many there are; of the others, each thread's largest logit and sums [W].
    """
    top = tl.full([W], -float("inf"), tl.float32)
    sums = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
    count = 0 * held
    cut = _logit(cut, E)
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
            added = (tl.zeros([W], tl.float32),) * (3 + len(inverse_t))
            for u in tl.static_range(U):
                mask = hits[u] & (place < LIST)
                tl.store(found + place, home + (step + u) * LANES, mask=mask)
                place += hits[u].to(tl.int32)
                under = tl.where(rest[u], shift, float("inf"))
                for tile in tl.static_range(len(x[u])):
                    added = _add(added, _below(x[u][tile], under, FUSED), inverse_t)
            old = _rescale(sums, moved, inverse_t)
            sums = ()
            for i in tl.static_range(3 + len(inverse_t)):
                sums = sums + (old[i] + added[i],)
            top = new
    return count, top, sums


@triton.jit
def _moved(tops, sums, top, inverse_t, W: tl.constexpr):
    """`sums` [n], which are relative to `tops` [n], relative to `top` and in float64 [W]."""
    sums = _rescale(sums, (tops - top) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        result = result + (tl.sum(tl.reshape(sums[i], [tops.shape[0] // W, W]), 0).to(tl.float64),)
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


@triton.jit(do_not_specialize=["stride", "size", "steps", "segments"])
def _finalise(logits, stride, size, steps, segments, inverse_t, scratch, fields, valid,
              top_logits, top_ids, K: tl.constexpr, KP: tl.constexpr, S: tl.constexpr,
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

    # K to KP lanes, those that come first (or all).
    cut, last, held, high = _choose(values, groups, lanes, steps, chosen, K, KP, S, E)
    tl.debug_barrier()

    # Their groups that reach (cut, last): K or more, but no more than fit; all if K lanes hold
    # nothing. K lanes may hold more: each its best one alone is sure to reach it.
    cut = tl.where(held < K, _empty(E) + 1, cut)
    fits = held <= KP
    held = tl.minimum(held, KP)
    count, b_tops, b = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E, U,
                                W, LIST, True, ALIGNED)  # fmt: skip
    b, wrong = _settle(b_tops, b, inverse_t)
    if (count >= LIST) | (tl.max(wrong.to(tl.int32)) > 0):
        if count >= LIST:
            lanes_of = (row, chosen, held, steps, size)
            cut, last = _narrow(_survey, lanes_of, cut, last, high, K, LIST - 1, E, U, W, ALIGNED)
        count, b_tops, b = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t,
                                    E, U, W, LIST, False, ALIGNED)  # fmt: skip
    tl.debug_barrier()

    # The candidates: the logits of these groups and the V % E last. K to LIST come first.
    of = (row, found, tl.minimum(count, LIST - 1), size)
    cut = tl.where(count < K, _empty(E) + 1, cut)
    live = _keep(of, cut, INT_MAX, ranked, E, W, LIST)
    if live > LIST:
        high = tl.where(size % E > 0, INT_MAX, high)  # the last logits are in no lane
        cut, last = _narrow(_tally, of, cut, INT_MAX + 0 * cut, high, K, LIST, E, U, W, ALIGNED)
        live = _keep(of, cut, last, ranked, E, W, LIST)
    tl.debug_barrier()
    fits &= (count < LIST) & (live <= LIST)
    live = tl.minimum(live, LIST)
    keys = _rank_keys(ranked, live, LIST, KP)
    at = _places(KP)
    kth = tl.max(tl.where(at == K - 1, keys, NOTHING))
    cut = tl.where(live < K, _empty(E) + 1, _order(_value(kth), E))
    c_tops, c = _extras(of, cut, _index(kth), inverse_t, E, W)

    # The tail: lanes not taken, the other groups of those taken, the other candidates.
    a_tops, a = _unread(values, lanes, inverse_t, S)
    tail_top = tl.maximum(tl.maximum(tl.max(a_tops), tl.max(b_tops)), tl.max(c_tops))
    a = _moved(a_tops, a, tail_top, inverse_t, W)
    b = _moved(b_tops, b, tail_top, inverse_t, W)
    c = _moved(c_tops, c, tail_top, inverse_t, W)
    tail = ()
    for i in tl.static_range(3 + len(inverse_t)):
        tail = tail + (tl.sum(a[i] + b[i] + c[i]),)
    top = tl.max(tl.where(at == 0, _value(keys), -float("inf")))
    ok = (live > 0) & (tail[0] - tail[0] == 0) & (_unusual(row, size, E) == 0)
    tail_top = tl.where(tail[0] > 0, tail_top, top)

    # More than fit can not be, but for NaN; if they were, no number would come of it.
    ok &= fits
    tl.store(valid + row_id, ok)
    in_head = ok & (at < live)
    missing = tl.where(ok, -float("inf"), float("nan"))
    writes = at < K
    tl.store(top_logits + row_id * K + at, tl.where(in_head, _value(keys), missing), mask=writes)
    tl.store(top_ids + row_id * K + at, tl.where(in_head, _index(keys), -1), mask=writes)
    _close(fields + row_id, tl.num_programs(0).to(tl.int64), _value(keys), at, live, top, tail_top,
           tail, inverse_t, ok, K)  # fmt: skip

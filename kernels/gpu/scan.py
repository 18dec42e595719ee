"""The one pass over the logits: Triton kernel `_scan`, and what other kernels share with it."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import functools

import triton
import triton.language as tl

STEPS = 8  # groups a lane takes for one rescaling of its sums
SEGMENTS, SEGMENT = 8, 8192  # at most so many segments a row, at least so many logits in each
LANES = tl.constexpr(128)  # = the threads of a program
LOG2_E = tl.constexpr(1.4426950408889634)
# Exponents (base 2) are cut here: 1e-38 of the largest term is nothing, 0 * -inf would be NaN.
LEAST = tl.constexpr(-126.0)
TWO_NOTHINGS = tl.constexpr(-0x7F0080)  # -inf in both halves, as bfloat16
LOWEST = tl.constexpr(-3.4028234663852886e38)  # instead of -inf as a shift: -inf - -inf is NaN
FUSED_UP_TO = tl.constexpr(4e6)  # times log2 e it rounds by 0.25 at most


@triton.jit
def _row(logits, stride, E: tl.constexpr):
    """Where the program's row begins, said to be on 16 bytes; `_load` sees to rows that are not."""
    return logits + tl.multiple_of(tl.program_id(0).to(tl.int64) * stride, E)


@triton.jit
def _lanes(scratch, lanes, SUMS: tl.constexpr):
    """In `scratch`, the row's float32 [1 + SUMS, lanes] (largest, sums) and int32 [lanes]."""
    record = (2 + SUMS) * lanes
    values = scratch + tl.program_id(0).to(tl.int64) * record
    return values, (values + (1 + SUMS) * lanes).to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def _load(pointers, inside, size, E: tl.constexpr, ALIGNED: tl.constexpr):
    """Logits [n, E] at `pointers`, of the groups `inside` [n], else -inf, in 16-byte loads.

    Rows that do not begin on 16 bytes: a mask by element, always true, splits the loads into
    single ones, and a thread keeps its groups. Without the false hint it would not: the compiler
    would spread a group over threads, at 30 to 40 instructions a logit.
    """
    mask = inside[:, None]
    if not ALIGNED:
        mask = mask & (tl.arange(0, E) < size)[None, :]  # a group exists, so size >= E
    return tl.load(pointers, mask=mask, other=-float("inf")).to(tl.float32)


@triton.jit
def _groups(start, group, inside, size, E: tl.constexpr, MASKED: tl.constexpr,
            ALIGNED: tl.constexpr):  # fmt: skip
    """Logits of `group` [n] from `start`, -inf where not `inside`: tiles [n, E / tiles].

    The bits of a bfloat16 are the upper half of a float32: two tiles, cut from words of 32 bits,
    take 0.5 instructions a logit less than widening.
    """
    HALVES: tl.constexpr = start.dtype.element_ty == tl.bfloat16
    if HALVES and ALIGNED:
        words = start.to(tl.pointer_type(tl.int32), bitcast=True)
        words += group[:, None] * (E // 2) + tl.arange(0, E // 2)[None, :]
        if MASKED:
            word = tl.load(words, mask=inside[:, None], other=TWO_NOTHINGS)
        else:
            word = tl.load(words)
        lower, upper = word << 16, word & -65536
        tiles = lower.to(tl.float32, bitcast=True), upper.to(tl.float32, bitcast=True)
    else:
        pointers = start + (group[:, None] * E + tl.arange(0, E)[None, :])
        if MASKED or not ALIGNED:
            x = _load(pointers, inside, size, E, ALIGNED)
        else:
            x = tl.load(pointers).to(tl.float32)
        # In halves too: the same sums to the bit.
        tiles = tl.split(tl.reshape(x, [group.shape[0], E // 2, 2])) if HALVES else (x,)
    return tiles


@triton.jit
def _best(tiles):
    best = tl.max(tiles[0], 1)
    for i in tl.static_range(1, len(tiles)):
        best = tl.maximum(best, tl.max(tiles[i], 1))
    return best


@triton.jit
def _terms(below, inverse_t, CUT: tl.constexpr = True):
    """w, w y, w y^2, and w^(1/T) of each logit, under its shift and times log2 e: w = 2^y.

    y = max(below, -126) where CUT; else -inf, too, makes its sums NaN, as do NaN and +inf.
    """
    y = tl.maximum(below, LEAST, propagate_nan=tl.PropagateNan.ALL) if CUT else below
    w = tl.exp2(y)
    wy = w * y
    result = (w, wy, wy * y)
    for i in tl.static_range(len(inverse_t)):
        result = result + (tl.exp2(below * inverse_t[i]),)
    return result


@triton.jit
def _plus(a, b):
    """Tuples of tensors, added each to each; products in `b` are fused with the additions."""
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (a[i] + b[i],)
    return result


@triton.jit
def _over(terms, axis: tl.constexpr):
    result = ()
    for i in tl.static_range(len(terms)):
        result = result + (tl.sum(terms[i], axis),)
    return result


@triton.jit
def _rescale(sums, below, inverse_t):
    """The sums relative to a shift that is `below` * -ln 2 higher."""
    d = tl.maximum(below, LEAST)
    w = tl.exp2(below)
    s0, s1, s2 = sums[0], sums[1], sums[2]
    result = (w * s0, w * (s1 + d * s0), w * (s2 + d * (2 * s1 + d * s0)))
    for i in tl.static_range(len(inverse_t)):
        result = result + (sums[3 + i] * tl.exp2(below * inverse_t[i]),)
    return result


@triton.jit
def _shift(top, new, FUSED: tl.constexpr):
    """What `_below` takes for the largest logit `new`, and `_rescale` to come there from `top`."""
    if FUSED:
        shift = tl.maximum(new * LOG2_E, LOWEST)
        moved = tl.maximum(top * LOG2_E, LOWEST) - shift
    else:
        shift = tl.maximum(new, LOWEST)
        moved = (tl.maximum(top, LOWEST) - shift) * LOG2_E
    return shift, moved


@triton.jit
def _below(x, shift, FUSED: tl.constexpr):
    """Logits [n, m] under the largest, times log2 e.

    FUSED takes one instruction and rounds once, relative to largest * log2 e, rounded.
    """
    under = shift[:, None]
    return tl.fma(x, LOG2_E, -under) if FUSED else (x - under) * LOG2_E


@triton.jit
def _settle(top, sums, inverse_t):
    """Fused sums made relative to `top`, and where they are not to be trusted.

    That is where the rounding of top * log2 e is no longer small (at 1e10 it is 512), and where
    sums are not finite: it may have begun with such logits before it met larger ones.
    """
    shift = tl.maximum(top * LOG2_E, LOWEST)
    lost = tl.where(top > -float("inf"), -tl.fma(top, LOG2_E, -shift), 0.0)
    sums = _rescale(sums, lost, inverse_t)
    limit = tl.full(top.shape, FUSED_UP_TO, tl.float32)
    # Not x - x != 0: x is a product, and fused with it that would be the product's rounding error.
    finite = tl.abs(sums[0]) < float("inf")
    for i in tl.static_range(1, len(sums)):
        finite &= tl.abs(sums[i]) < float("inf")
    for i in tl.static_range(len(inverse_t)):
        limit = tl.minimum(limit, FUSED_UP_TO / inverse_t[i])
    return sums, ~finite | ((top > -float("inf")) & (tl.abs(top) > limit))


@triton.jit
def _advance(
    top, first, sums, row, step, size, inverse_t, E: tl.constexpr, U: tl.constexpr,
    MASKED: tl.constexpr, FUSED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Take U steps into the lanes' state."""
    lane = tl.arange(0, LANES)
    start = row + step * (LANES * E)  # ids, and so offsets in a row, are int32
    x = ()
    for u in tl.static_range(U):
        inside = lane + (step + u) * LANES < size // E
        x = x + (_groups(start, lane + u * LANES, inside, size, E, MASKED, ALIGNED),)
    new = top
    for u in tl.static_range(U):
        best = _best(x[u])
        first = tl.where(best > new, step + u, first)
        new = tl.maximum(new, best)
    shift, moved = _shift(top, new, FUSED)
    added = ()
    for u in tl.static_range(U):
        for tile in tl.static_range(len(x[u])):
            # Without the cut of exponents: one instruction in ten less.
            terms = _terms(_below(x[u][tile], shift, FUSED), inverse_t, MASKED or not FUSED)
            added = terms if len(added) == 0 else _plus(added, terms)
    return new, first, _plus(_rescale(sums, moved, inverse_t), _over(added, 1))


@triton.jit
def _begin(inverse_t):
    """The state of lanes that have seen nothing."""
    top = tl.full([LANES], -float("inf"), tl.float32)
    return top, tl.zeros([LANES], tl.int32), (tl.zeros([LANES], tl.float32),) * (3 + len(inverse_t))


@triton.jit
def _walk(row, start, stop, size, inverse_t, E: tl.constexpr, U: tl.constexpr,
          FUSED: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """The state of the lanes after the steps from `start` to `stop`."""
    top, first, sums = _begin(inverse_t)
    full = tl.maximum(tl.minimum(stop, size // E // LANES) - start, 0)
    whole, full = start + full // U * U, start + full // (U // 2) * (U // 2)
    for step in range(start, whole, U):
        top, first, sums = _advance(
            top, first, sums, row, step, size, inverse_t, E, U, False, FUSED, ALIGNED
        )
    for step in range(whole, full, U // 2):  # once, or not
        top, first, sums = _advance(
            top, first, sums, row, step, size, inverse_t, E, U // 2, False, FUSED, ALIGNED
        )
    for step in range(full, stop):
        top, first, sums = _advance(
            top, first, sums, row, step, size, inverse_t, E, 1, True, FUSED, ALIGNED
        )
    return top, first, sums


@triton.jit
def _look(row, step, size, E: tl.constexpr, ALIGNED: tl.constexpr):
    """1 if there is a -inf in the first groups of this step, as many as a warp holds alone.

    So each warp answers for itself: none waits for another.
    """
    near = tl.arange(0, 32)
    inside = near + step * LANES < size // E
    tiles = _groups(row + step * (LANES * E), near, inside, size, E, True, ALIGNED)
    return tl.max((inside & (tl.min(tiles[0], 1) < -2e38)).to(tl.int32))


@triton.jit(do_not_specialize=["stride", "size", "steps"])
def _scan(logits, stride, size, steps, inverse_t, scratch, E: tl.constexpr,
          U: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """One segment of a row: writes its lanes' largest logit, sums and first group, see `_lanes`.

    Where the fused sums are not to be trusted the segment is walked again; where its first groups
    hold a -inf, as in a masked row, they would not be, and it is walked that way only.
    """
    row = _row(logits, stride, E)
    lane = tl.arange(0, LANES)
    start = tl.program_id(1) * steps
    stop = tl.minimum(start + steps, tl.cdiv(size // E, LANES))
    top, first, sums = _begin(inverse_t)
    again = _look(row, start, size, E, ALIGNED)
    if again == 0:
        top, first, sums = _walk(row, start, stop, size, inverse_t, E, U, True, ALIGNED)
        sums, wrong = _settle(top, sums, inverse_t)
        again = tl.max(wrong.to(tl.int32))
    if again > 0:
        top, first, sums = _walk(row, start, stop, size, inverse_t, E, U, False, ALIGNED)

    lanes = tl.num_programs(1) * LANES
    values, groups = _lanes(scratch, lanes, 3 + len(inverse_t))
    at = tl.program_id(1) * LANES + lane
    tl.store(values + at, top)
    for i in tl.static_range(3 + len(inverse_t)):
        tl.store(values + (1 + i) * lanes + at, sums[i])
    tl.store(groups + at, first * LANES + lane)


@functools.cache
def geometry(size: int, itemsize: int) -> tuple[int, int, int]:
    """Logits a group, steps a segment, segments a row: from V and the dtype alone."""
    per_group = 16 // itemsize
    groups = size // per_group
    whole = LANES.value * (STEPS // 2) * per_group  # logits that all lanes take without a mask
    segment = triton.cdiv(max(SEGMENT, triton.cdiv(size, SEGMENTS)), whole) * whole
    segments = max(1, triton.cdiv(groups * per_group, segment))
    steps = min(segment // (LANES.value * per_group), max(1, triton.cdiv(groups, LANES.value)))
    return per_group, steps, segments

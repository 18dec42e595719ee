"""The comparison of two rows of logits on GPUs: Triton, one pass over both, float32."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssd_probe.kernels.gpu.launch import launch
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.series import JS_FAR, JS_SERIES, KL_SERIES

THREADS = 128
SEGMENT = 2**15  # logits of a row that one program compares: a function of nothing else
SUMS = 6

_KL = tl.constexpr(KL_SERIES)
_JS = tl.constexpr(JS_SERIES)
_FAR = tl.constexpr(JS_FAR)
_LOG2E = tl.constexpr(1.4426950408889634)
# Beside a maximum as large, y - x keeps too few digits, or float64 too few of the log partition.
_LARGE = tl.constexpr(65536.0)
_LARGE_EXACT = tl.constexpr(64.0)


@triton.jit
def _polynomial(x, coefficients: tl.constexpr, n: tl.constexpr):
    """Horner's rule with n coefficients, lowest power first."""
    value = x * coefficients[n - 1] + coefficients[n - 2]
    for i in tl.static_range(n - 2):
        value = value * x + coefficients[n - 3 - i]
    return value


@triton.jit
def _elements(x, y, a_max, b_max, a_log, b_log, c_high, c_low, log_gap, EXACT: tl.constexpr):
    """The six sums' elements of logits x and y. Minimum and maximum drop NaN, which is meant."""
    x_below = x - a_max
    y_below = y - b_max
    p = tl.exp2(x_below * _LOG2E - a_log)
    q_far = tl.exp2(y_below * _LOG2E - b_log)

    # d = (y - x) - c; the subtraction's rounding error e (Knuth's TwoSum) and c's low part matter
    # where y - x and c are large and close. inf - inf makes e NaN; the minimum takes it away.
    s = y - x
    d = s - c_high
    if EXACT:
        d -= c_low
    else:
        y_back = s - y
        e = (y - (s - y_back)) - (x + y_back)
        d += tl.minimum(e - c_low, 1e30)
    large = tl.maximum(tl.abs(a_max), tl.abs(b_max)) >= (_LARGE_EXACT if EXACT else _LARGE)
    d = tl.where(large, y_below - x_below - log_gap, d)
    size = tl.abs(d)
    near = size <= 1.0  # False for NaN: neither has the token, and p = q = 0

    ddp = d * d * p
    kl_near = ddp * _polynomial(d, _KL, 7)
    js_near = ddp * _polynomial(d, _JS, 7)
    w_near = d * p + kl_near  # q - p
    lk_near = ddp - (1.0 - d) * kl_near

    # p = 0 and d = inf: nothing. q = 0 and d = -inf: p inf = inf, or NaN which means inf.
    w_far = q_far - p
    kl_far = w_far - p * tl.minimum(d, 1e30)
    lk_far = q_far * tl.maximum(d, -1e30) - w_far
    size = tl.minimum(size, 100.0)
    r = tl.exp2(size * -_LOG2E)
    js_far = (0.5 * tl.maximum(p, q_far)) * (_polynomial(r, _FAR, 6) - r * size)

    w = tl.where(near, w_near, w_far)
    return (
        tl.where(near, kl_near, kl_far),
        tl.where(near, lk_near, lk_far),
        tl.where(near, js_near, js_far),
        tl.abs(w),
        w,
        tl.where(d > 0, p + w, 0.0),
    )


@triton.jit
def _plus(sums, found):
    result = ()
    for i in tl.static_range(6):
        result = result + (sums[i] + found[i],)
    return result


@triton.jit(do_not_specialize=["x_stride", "y_stride", "size", "segments"])
def _pair(
    x_ptr,
    y_ptr,
    rows_ptr,
    out_ptr,
    x_stride,
    y_stride,
    size,
    segments,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Sums [N, SEGMENTS, 6] float32 of one segment of one row; constants [N, 7]."""
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    x_offset = row * x_stride
    y_offset = row * y_stride
    if ALIGNED:  # 8 elements are 16 bytes or more; said of a product, an argument would forget it
        x_offset = tl.multiple_of(x_offset, 8)
        y_offset = tl.multiple_of(y_offset, 8)
    x_row = x_ptr + x_offset
    y_row = y_ptr + y_offset
    a_max = tl.load(rows_ptr + row * 7)
    b_max = tl.load(rows_ptr + row * 7 + 1)
    a_log = tl.load(rows_ptr + row * 7 + 2)
    b_log = tl.load(rows_ptr + row * 7 + 3)
    c_high = tl.load(rows_ptr + row * 7 + 4)
    c_low = tl.load(rows_ptr + row * 7 + 5)
    log_gap = tl.load(rows_ptr + row * 7 + 6)

    columns = tl.arange(0, BLOCK)
    start = segment * SEGMENT
    stop = tl.minimum(start + SEGMENT, size)
    full = start + (stop - start) // BLOCK * BLOCK
    sums = (tl.zeros([BLOCK], tl.float32),) * 6
    for at in range(start, full, BLOCK):
        x = tl.load(x_row + at + columns).to(tl.float32)
        y = tl.load(y_row + at + columns).to(tl.float32)
        found = _elements(x, y, a_max, b_max, a_log, b_log, c_high, c_low, log_gap, EXACT)
        sums = _plus(sums, found)
    if full < stop:
        inside = full + columns < stop
        x = tl.load(x_row + full + columns, mask=inside, other=-float("inf")).to(tl.float32)
        y = tl.load(y_row + full + columns, mask=inside, other=-float("inf")).to(tl.float32)
        found = _elements(x, y, a_max, b_max, a_log, b_log, c_high, c_low, log_gap, EXACT)
        sums = _plus(sums, found)
    out = out_ptr + (row * segments + segment) * 6
    for i in tl.static_range(6):
        tl.store(out + i, tl.sum(sums[i]))


def pair_sums(x: Tensor, y: Tensor, base: PositionStats, other: PositionStats) -> Tensor:
    """The sums [N, 6] float64 that `closing.close_pair` takes, of logits [N, V] on a GPU.

    The order of additions depends on V and the dtypes only, so a row's bits depend on nothing else.
    """
    x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (x, y))
    rows, size = x.shape
    segments = triton.cdiv(size, SEGMENT)
    out = torch.empty(rows, segments, SUMS, dtype=torch.float32, device=x.device)
    if rows:
        narrow = min(x.element_size(), y.element_size())
        aligned = all(t.data_ptr() % 16 == 0 and t.stride(0) % 8 == 0 for t in (x, y))
        launch(
            _pair, (rows, segments), x, y, _row_constants(base, other), out,
            x.stride(0), y.stride(0), size, segments,
            SEGMENT=SEGMENT,
            BLOCK=THREADS * (16 // narrow),
            ALIGNED=aligned,
            EXACT=max(x.element_size(), y.element_size()) == 2,
            threads=THREADS,
        )  # fmt: skip
    return out.double().sum(1)


def _row_constants(base: PositionStats, other: PositionStats) -> Tensor:
    """[N, 7]: both maxima, both log partitions in bits, c = lse_other - lse_base in two parts, and
    the difference of the log partitions, which is c without the maxima."""
    c = other.logsumexp - base.logsumexp
    high = c.float()
    logs = [s.log_partition.double() for s in (base, other)]
    bits = [log * _LOG2E.value for log in logs]
    columns = [base.max_logit, other.max_logit, *bits, high, c - high.double(), logs[1] - logs[0]]
    return torch.stack([column.float() for column in columns], -1)

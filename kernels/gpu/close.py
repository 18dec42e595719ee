"""From the head and the tail's sums of a row to its statistics, in float64."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.scan import LOG2_E, _rescale, _terms

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _moved(tops, sums, top, inverse_t, W: tl.constexpr):
    """`sums` [n], which are relative to `tops` [n], relative to `top` and in float64 [W]."""
    sums = _rescale(sums, (tops - top) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        result = result + (tl.sum(tl.reshape(sums[i], [tops.shape[0] // W, W]), 0).to(tl.float64),)
    return result


@triton.jit
def _moved_one(logits, top, inverse_t):
    """The sums of `logits`, of which -inf are none, relative to `top`, in float64."""
    terms = _terms((logits - top) * LOG2_E, inverse_t)
    result = ()
    for i in tl.static_range(3 + len(inverse_t)):
        some = tl.where(logits == -float("inf"), 0.0, terms[i])
        result = result + (tl.sum(some).to(tl.float64),)
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
    heads, tails = tl.where(head, tl.exp(d), 0.0), tl.exp(gap)
    rest = tl.sum(tl.where(others, heads, 0.0)) + tails * w0
    log_partition = _log1p(rest)

    share = 1 / (1 + rest)
    p, q = heads * share, tails * share
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

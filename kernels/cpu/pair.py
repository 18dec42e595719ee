"""The comparison of two rows of logits on CPUs: numba, one pass, float32 blocks into float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ssd_probe.kernels.cpu.logits import exp
from ssd_probe.kernels.cpu.threads import in_threads
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.series import JS_FAR, JS_SERIES, KL_SERIES

BLOCK = 512  # elements summed in float32 before they join the float64 sums
HALF_ROWS = 2**18  # float16 logits widened at a time: 1 MB, within the second cache

# numba freezes these; as Python floats they would draw the arithmetic into float64.
_KL = tuple(np.float32(c) for c in KL_SERIES)
_JS = tuple(np.float32(c) for c in JS_SERIES)
_FAR = tuple(np.float32(c) for c in JS_FAR)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_LEAST, _FAR_D, _HUGE, _TINY = np.float32(-87), np.float32(100), np.float32(1e30), np.float32(1e-37)

# Sums in any order and fused multiply-adds, but NaN, inf and signs of zero mean what they say.
_MATH = {"reassoc", "contract", "nsz"}


@njit
def _exp(t):
    """e^t for t <= 88, float32; 0 below -87, where float32 turns subnormal and slow."""
    return exp(t) if t > _LEAST else _ZERO


@njit(fastmath={"contract"})  # not reassociated: large logits would swallow the log partition
def _log_p(z, largest, log_partition):
    return (np.float64(z) - largest) - log_partition


@njit(cache=True, nogil=True, fastmath=_MATH, boundscheck=False)
def _block(a, b, a_shift, b_shift, a_max, b_max, a_log, b_log, out):
    """Add the six sums of `closing.close_pair` over one block to `out` [6].

    `a`, `b`: raw bits of the logits, uint32, or uint16 of bfloat16 with a shift of 16;
    `a_max`, `b_max`: the largest logits; `a_log`, `b_log`: the log partitions, float64.
    """
    kl, lk, js, tv, diff, above = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(len(a)):
        x = _log_p(np.uint32(np.uint32(a[i]) << a_shift).view(np.float32), a_max, a_log)
        y = _log_p(np.uint32(np.uint32(b[i]) << b_shift).view(np.float32), b_max, b_log)
        # In float64, because the difference of close logits is all that a small KL is made of.
        d = np.float32(y - x)
        p, q_far = _exp(np.float32(x)), _exp(np.float32(y))
        size = abs(d)
        near = size <= _ONE  # False for NaN: neither has the token, and p = q = 0

        dd_p = d * d * p
        kl_near = dd_p * (_KL[0] + d * (_KL[1] + d * (_KL[2] + d * (_KL[3] + d * (
            _KL[4] + d * (_KL[5] + d * _KL[6]))))))  # fmt: skip
        js_near = dd_p * (_JS[0] + d * (_JS[1] + d * (_JS[2] + d * (_JS[3] + d * (
            _JS[4] + d * (_JS[5] + d * _JS[6]))))))  # fmt: skip
        w_near = d * p + kl_near  # q - p
        lk_near = dd_p - (_ONE - d) * kl_near

        # p = 0 and d = inf: nothing. q = 0 and d = -inf: p inf = inf, or NaN which means inf.
        w_far = q_far - p
        kl_far = w_far - p * (d if d < _HUGE else _HUGE)
        lk_far = q_far * (d if d > -_HUGE else -_HUGE) - w_far
        high, low = (q_far, p) if q_far > p else (p, q_far)
        r = low / (high if high > _TINY else _TINY)
        curve = _FAR[0] + r * (_FAR[1] + r * (_FAR[2] + r * (_FAR[3] + r * (
            _FAR[4] + r * _FAR[5]))))  # fmt: skip
        js_far = _HALF * high * (curve - r * (size if size < _FAR_D else _FAR_D))

        w = w_near if near else w_far
        kl += kl_near if near else kl_far
        lk += lk_near if near else lk_far
        js += js_near if near else js_far
        tv += abs(w)
        diff += w
        above += p + w if d > _ZERO else _ZERO
    out[0] += kl
    out[1] += lk
    out[2] += js
    out[3] += tv
    out[4] += diff
    out[5] += above


@njit(cache=True, nogil=True)
def _rows(a, b, a_stride, b_stride, size, a_shift, b_shift, maxima, logs, out):
    """`_block` over n rows into `out` [n, 6], of `maxima` and `logs` [2, n]; where NaN, it stays 0.

    `a`, `b`: memory from the first row's first logit on, flat: a view of rows that lie apart would
    be of another type, compiled apart, and round apart.
    """
    for row in range(len(out)):
        if np.isfinite(logs[0, row]) and np.isfinite(logs[1, row]):
            for start in range(0, size, BLOCK):
                end = min(start + BLOCK, size)
                i, j = row * a_stride, row * b_stride
                x, y = a[i + start : i + end], b[j + start : j + end]
                _block(x, y, a_shift, b_shift, maxima[0, row], maxima[1, row], logs[0, row],
                       logs[1, row], out[row])  # fmt: skip


def _bits(logits: Tensor) -> tuple[np.ndarray, int, np.uint32]:
    """The rows' memory as flat unsigned integers, their stride, the shift that makes float32."""
    wide = logits.dtype != torch.bfloat16
    logits = logits.float() if wide else logits
    extent = (len(logits) - 1) * logits.stride(0) + logits.shape[1]
    flat = logits.as_strided((extent,), (1,)).view(torch.uint32 if wide else torch.uint16)
    return flat.numpy(), logits.stride(0), np.uint32(0 if wide else 16)


def pair_sums(x: Tensor, y: Tensor, base: PositionStats, other: PositionStats) -> Tensor:
    """The sums [N, 6] float64 that `closing.close_pair` takes, of logits [N, V].

    Each row is computed by one thread, in one order: its bits depend on nothing else.
    """
    if x.stride(1) != 1:
        x = x.contiguous()
    if y.stride(1) != 1:
        y = y.contiguous()
    sides = base, other
    maxima = np.stack([side.max_logit.double().numpy() for side in sides])  # [2, N]
    logs = np.stack([side.log_partition.double().numpy() for side in sides])
    out = np.zeros((len(x), 6))
    step = max(1, HALF_ROWS // x.shape[1])

    def work(begin: int, end: int) -> None:
        for start in range(begin, end, step):
            part: Any = slice(start, min(start + step, end))
            a, a_stride, a_shift = _bits(x[part])
            b, b_stride, b_shift = _bits(y[part])
            _rows(a, b, a_stride, b_stride, x.shape[1], a_shift, b_shift,
                  maxima[:, part], logs[:, part], out[part])  # fmt: skip

    in_threads(work, len(x))
    return torch.from_numpy(out)

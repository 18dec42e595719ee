"""The tail of a row of logits on CPUs: sums over all that are not in its head.

[shift, sums of w, w y, w y^2, and of e^(y / T)], with y = z - shift and w = e^y, in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ssd_probe.kernels.cpu.logits import F32, LEAST, MINUS_INF, U32, exp, logit

SEGMENT = 256  # logits summed in float32 before they join the float64 sums; more blur varentropy
FAR, NEAR, INFINITE = (F32(y).view(np.uint32) for y in (-LEAST, 20, np.inf))
HALF, TWO = F32(0.5), F32(2)


@njit(fastmath={"contract"})  # without any it has those of `_sum`, by which 0 might be -0
def _distance(a, b):
    """The bits of a - b."""
    return F32(a - b).view(np.uint32)


@njit(fastmath={"contract"})
def _tempered(a, b, double):
    """(a - b) double / 2, halved first: the difference of the largest floats would be infinite."""
    return F32(F32(a * HALF - b * HALF) * double)


@njit(fastmath={"reassoc", "contract", "nsz"})
def _sum(x, shift, inverse_t, total):
    """Add to `total` the sums, relative to `shift`, over the logits up to it.

    Also the bits of the least and of the largest of shift - z, as unsigned integers: of what is
    above the shift, and of NaN, they are larger than `INFINITE`.
    """
    s0, s1, s2 = F32(0), F32(0), F32(0)
    least, most = U32(0xFFFFFFFF), U32(0)
    for i in range(len(x)):
        bits = _distance(shift, logit(x, i))
        least, most = min(least, bits), max(most, bits)
        y = U32(min(bits, FAR)).view(np.float32)
        w = exp(-y)
        s0 += w
        s1 += w * y
        s2 += w * y * y
    total[0] += s0
    total[1] -= s1
    total[2] += s2
    for j in range(len(inverse_t)):
        double = F32(TWO * inverse_t[j])
        s0 = F32(0)
        for i in range(len(x)):
            v = logit(x, i)
            y = _tempered(v, shift, double)
            w = exp(LEAST if y < LEAST else y)
            s0 += w if MINUS_INF < v <= shift else F32(0)  # where 1 / T is 0, y may be NaN
        total[3 + j] += s0
    return least, most


@njit
def _add(tail, shift, total, temperatures):
    """Add sums relative to `shift` to a row's tail."""
    if shift > tail[0]:  # the tail is seen from the larger of the two
        moved = tail[0] - shift if tail[0] > -np.inf else 0.0
        _move(tail[1:], moved, temperatures)
        tail[0] = shift
    else:
        _move(total, shift - tail[0], temperatures)
    for i in range(len(total)):
        tail[1 + i] += total[i]


@njit
def _move(sums, y, temperatures):
    """Make sums relative to a shift relative to one that is -y larger."""
    w = np.exp(y)
    s0, s1, s2 = sums[0], sums[1], sums[2]
    sums[0], sums[1], sums[2] = w * s0, w * (s1 + y * s0), w * (s2 + 2 * y * s1 + y * y * s0)
    for j in range(len(temperatures)):
        sums[3 + j] *= np.exp(y / temperatures[j])

"""What temperature, top-k and top-p leave of many positions under many decodings, on the CPU.

`Decoding.kept` is the definition; this computes its supports' sizes and entropies without a mask
for each decoding, which is what curves over T_eval need at millions of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.kernels.cpu.threads import in_threads

SLACK = 1e-7  # of `Decoding.kept` for float32 logits
LEAST = -708.0  # below it e^y is a subnormal number
LOG2E = 1.4426950408889634
LN2_HIGH = float.fromhex("0x1.62e42fefap-1")  # 35 bits: n times it is exact
LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
ROUND = 1.5 * 2**52  # x + ROUND has round(x) in its last bits
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12 = (1 / factorial(n) for n in range(2, 13))


class Truncated(NamedTuple):
    """Of N positions under D decodings: [N, D] each."""

    size: Tensor  # survivors, int64
    entropy: Tensor  # of what is drawn from, nats, float64
    top1: Tensor  # probability of the likeliest token in what is drawn from, float64


def truncated(ranked: Tensor, decodings: Sequence[Decoding]) -> Truncated:
    """What each decoding leaves of `ranked` [N, K]: float32 logits, descending, -inf padding last.

        H = log Z - sum_S w y / Z,  top1 = 1 / Z,  y = (z - max z) / T,  w = e^y,  Z = sum_S w

    over the S that `Decoding.kept` keeps. A row that begins with -inf or NaN has size 0 and NaN.
    Source: paper section 2, figures 6b and 6c.
    """
    z = np.ascontiguousarray(ranked.numpy(), dtype=np.float32)
    settings = np.array([(d.temperature, d.top_k, d.top_p, d.is_greedy) for d in decodings], float)
    settings = settings.reshape(-1, 4)
    size = np.zeros((len(z), len(settings)), np.int64)
    entropy, top1 = np.full((2, len(z), len(settings)), np.nan)

    def rows(begin: int, end: int) -> None:
        part = slice(begin, end)
        _rows(z[part], settings, size[part], entropy[part], top1[part])

    in_threads(rows, len(z))
    return Truncated(*map(torch.from_numpy, (size, entropy, top1)))


@njit(nogil=True, cache=True)
def _rows(z, settings, size, entropy, top1):
    y, w = np.empty(z.shape[1]), np.empty(z.shape[1])
    for row in range(z.shape[0]):
        first = np.float64(z[row, 0])
        if not first > -np.inf:
            continue
        for d in range(settings.shape[0]):
            temperature, top_k, top_p, greedy = settings[d]
            k = 1 if greedy else _survivors_of_top_k(z[row], int(top_k))
            temperature = 1.0 if greedy else temperature
            for rank in range(k):
                y[rank] = (np.float64(z[row, rank]) - first) / temperature
                w[rank] = _exp(y[rank])
            kept, mass, slope = k, 0.0, 0.0
            if top_p < 1:
                least, kept = (top_p - SLACK) * w[:k].sum(), 0
                while kept < k and (kept == 0 or mass < least):
                    mass += w[kept]
                    slope += w[kept] * max(y[kept], LEAST)
                    kept += 1
            else:
                for rank in range(k):
                    mass += w[rank]
                    slope += w[rank] * max(y[rank], LEAST)
            size[row, d] = kept
            entropy[row, d] = max(np.log(mass) - slope / mass, 0.0)
            top1[row, d] = 1 / mass


# Its own flags, or it inherits the caller's, and reassociated, n would be no integer.
@njit(fastmath={"contract"})
def _exp(y):
    """e^y, float64, for y <= 0, to 4e-16 relative; 0 below `LEAST`. Vectorises when inlined."""
    bounded = max(y, LEAST)
    shifted = bounded * LOG2E + ROUND
    n = shifted - ROUND
    r = (bounded - n * LN2_HIGH) - n * LN2_LOW  # |r| <= ln(2) / 2
    p = ((((C12 * r + C11) * r + C10) * r + C9) * r + C8) * r + C7
    p = ((((((p * r + C6) * r + C5) * r + C4) * r + C3) * r + C2) * r + 1.0) * r + 1.0
    power = np.float64(shifted).view(np.int64) << np.int64(52)
    found = np.int64(power + np.float64(p).view(np.int64)).view(np.float64)
    return found if y >= LEAST else 0.0


@njit(nogil=True, cache=True)
def _survivors_of_top_k(z, top_k):
    """Ranks above -inf that reach the k-th logit; ties stay."""
    least = z[top_k - 1] if 0 < top_k < z.shape[0] else np.float32(-np.inf)
    count = 0
    while count < z.shape[0] and z[count] >= least and z[count] > -np.inf:
        count += 1
    return count

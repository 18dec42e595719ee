"""What temperature, top-k and top-p leave of many positions under many decodings, on the CPU.

`Decoding.kept` is the definition; this computes its supports' sizes and entropies without a mask
for each decoding, which is what curves over T_eval need at millions of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.kernels.cpu.threads import in_threads

SLACK = 1e-7  # of `Decoding.kept` for float32 logits


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
            total = 0.0
            for rank in range(k):
                y[rank] = (np.float64(z[row, rank]) - first) / temperature
                w[rank] = np.exp(y[rank])
                total += w[rank]
            kept, mass = k, 0.0
            if top_p < 1:
                kept = 0
                while kept < k and (kept == 0 or mass / total < top_p - SLACK):
                    mass += w[kept]
                    kept += 1
            mass, slope = 0.0, 0.0
            for rank in range(kept):
                mass += w[rank]
                if w[rank] > 0:
                    slope += w[rank] * y[rank]
            size[row, d] = kept
            entropy[row, d] = max(np.log(mass) - slope / mass, 0.0)
            top1[row, d] = 1 / mass


@njit(nogil=True, cache=True)
def _survivors_of_top_k(z, top_k):
    """Ranks above -inf that reach the k-th logit; ties stay."""
    least = z[top_k - 1] if 0 < top_k < z.shape[0] else np.float32(-np.inf)
    count = 0
    while count < z.shape[0] and z[count] >= least and z[count] > -np.inf:
        count += 1
    return count

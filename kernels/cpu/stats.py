"""The CPU backend: one numba kernel that adds logits to the running state of their rows.

A chunk of a row is cut into blocks of 256. One vectorised pass gives each block's largest logit and
its sums relative to that logit. The K-th largest block maximum bounds the K-th largest logit from
below, so few blocks can hold any of the top K; those are searched, and their sums taken again
without what was found. Thus the tail is summed directly, and no row's result depends on another's.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit
from numba.extending import overload
from torch import Tensor

from ssd_probe.kernels.closing import close, target_fields_of
from ssd_probe.kernels.cpu.threads import in_threads
from ssd_probe.kernels.results import PositionStats

BLOCK = 256
UPCAST_ELEMENTS = 2**22  # float16 is converted this many elements at a time
LEAST = np.float32(-87)  # below it e^y is a subnormal number, and slow
F32, I32 = np.float32, np.int32
HALF = F32(0.5)
MINUS_INF = F32(-np.inf)
LOG2E = F32(1.4426950408889634)
LN2 = F32(0.6931471805599453)
ROUND = F32(1.5 * 2**23)  # x + ROUND has round(x) in its last bits
C2, C3, C4, C5 = map(  # e^r = 1 + r + C2 r^2 + ... for |r| <= ln(2) / 2, to 1.2e-7 relative
    F32, (0.49999142, 0.16666887, 0.04189868, 0.00833384)
)


# Its own flags, or it inherits the caller's, and reassociated, n would be no integer.
@njit(fastmath={"contract"})
def exp(y):
    """e^y, float32, for -87 <= y <= 87: 2^n e^r with |r| <= ln(2) / 2; vectorises when inlined."""
    shifted = F32(y * LOG2E + ROUND)
    n = F32(shifted - ROUND)
    r = F32(y - n * LN2)
    p = F32(((((C5 * r + C4) * r + C3) * r + C2) * r + F32(1)) * r + F32(1))
    return I32((shifted.view(np.int32) << I32(23)) + p.view(np.int32)).view(np.float32)


def logit(x, i):
    """x[i] as float32; uint16 holds the bits of a bfloat16."""


@overload(logit, inline="never")
def _logit(x, i):
    if x.dtype == numba.uint16:
        return lambda x, i: np.uint32(np.uint32(x[i]) << np.uint32(16)).view(np.float32)
    return lambda x, i: x[i]


@njit
def _key(bits):
    """An int32 that orders floats: -inf, the finite ones, +inf, NaN of either sign."""
    return I32(I32(bits ^ ((bits >> I32(31)) & I32(0x7FFFFFFF))) - I32(0x007FFFFF))


@njit
def _of_key(key):
    """The float whose `_key` this is."""
    bits = I32(key + I32(0x007FFFFF))
    return I32(bits ^ ((bits >> I32(31)) & I32(0x7FFFFFFF))).view(np.float32)


@njit(fastmath={"reassoc", "contract", "nsz"})
def _block(x, inverse_t, sums):
    """The largest logit of x, and into `sums`: of w, w y, w y^2 with y = x - largest, w = e^y,
    then of e^(y / T). NaN and +inf make the first sum NaN."""
    key = I32(-(2**31))
    for i in range(len(x)):  # a maximum of integers vectorises, one of floats does not
        key = max(key, _key(F32(logit(x, i)).view(np.int32)))
    top = _of_key(key)
    s0, s1, s2 = F32(0), F32(0), F32(0)
    if top > MINUS_INF or top != top:
        for i in range(len(x)):
            y = F32(logit(x, i) - top)
            y = LEAST if y < LEAST else y  # NaN stays
            w = exp(y)
            s0 += w
            s1 += w * y
            s2 += w * y * y
    sums[0] = np.nan if s1 != s1 else s0
    sums[1], sums[2] = s1, s2
    for j in range(len(inverse_t)):
        s0 = F32(0)
        for i in range(len(x)):
            v = logit(x, i)  # halved, or the difference of the largest floats would be -inf
            y = F32((v * HALF - top * HALF) * (inverse_t[j] + inverse_t[j]))
            w = exp(LEAST if y < LEAST else y)
            s0 += w if v > MINUS_INF else F32(0)  # where 1 / T is 0, y is NaN
        sums[3 + j] = s0
    return top


@njit
def _add(tail, shift, sums, inverse_t):
    """Add sums relative to `shift` to `tail` = [its own shift, its sums], float64."""
    delta = shift - tail[0]
    if delta > 0:  # the tail's shift becomes this one; -inf was that of an empty tail
        moved = 0.0 if tail[0] == -np.inf else -delta
        _shifted(tail, np.exp(moved), moved, tail[1], tail[2], tail[3])
        for j in range(len(inverse_t)):
            tail[4 + j] *= np.exp(moved * inverse_t[j])
        tail[0], delta = shift, 0.0
    s0, s1, s2 = tail[1], tail[2], tail[3]
    _shifted(tail, np.exp(delta), delta, sums[0], sums[1], sums[2])
    tail[1] += s0
    tail[2] += s1
    tail[3] += s2
    for j in range(len(inverse_t)):
        tail[4 + j] += sums[3 + j] * np.exp(delta * inverse_t[j])


@njit
def _shifted(tail, w, delta, s0, s1, s2):
    """Write into `tail` the sums s of w y^n as seen from a shift that is `-delta` larger."""
    tail[1] = w * s0
    tail[2] = w * (s1 + delta * s0)
    tail[3] = w * (s2 + 2 * delta * s1 + delta * delta * s0)


@njit
def _insert(values, ids, value, index):
    """Put a logit into the ranked ones, behind its equals, which have lower ids."""
    j = len(values) - 1
    while j > 0 and values[j - 1] < value:
        values[j], ids[j] = values[j - 1], ids[j - 1]
        j -= 1
    values[j], ids[j] = value, index


@njit
def _row(x, first_id, inverse_t, values, ids, tail, tops, sums):
    """Add the logits x, of ids from `first_id` on, to a row's head and tail; `tops` and `sums` are
    scratch, one entry a block."""
    k = len(values)
    blocks = len(tops)
    for b in range(blocks):
        tops[b] = _block(x[b * BLOCK : (b + 1) * BLOCK], inverse_t, sums[b])
    cut = np.partition(tops, blocks - k)[blocks - k] if blocks > k else MINUS_INF

    one = np.ones(sums.shape[1], np.float32)  # the sums of one logit relative to itself
    one[1:3] = 0
    rest = np.empty(BLOCK, np.float32)
    for b in range(blocks):
        if tops[b] < cut or not tops[b] > values[k - 1]:
            continue
        block = x[b * BLOCK : (b + 1) * BLOCK]
        n = len(block)
        for i in range(n):
            rest[i] = logit(block, i)
        for i in range(n):
            v = rest[i]
            if v >= cut and v > values[k - 1]:
                if ids[k - 1] >= 0:
                    _add(tail, values[k - 1], one, inverse_t)
                _insert(values, ids, v, first_id + b * BLOCK + i)
                rest[i] = MINUS_INF
        nan = np.isnan(sums[b, 0])
        tops[b] = _block(rest[:n], inverse_t, sums[b])
        if nan:  # +inf may have gone to the head
            sums[b, 0] = np.nan

    _merge(tops, sums, inverse_t, tail)


@njit
def _merge(tops, sums, inverse_t, tail):
    """Add the blocks' sums, each relative to its own logit of `tops`, to the tail."""
    shift = MINUS_INF
    for b in range(len(tops)):
        shift = max(shift, tops[b])
    total = np.zeros(sums.shape[1])
    s0, s1, s2 = 0.0, 0.0, 0.0
    for b in range(len(tops)):
        if np.isnan(sums[b, 0]):
            s0 = np.nan
        elif tops[b] > MINUS_INF:
            delta = max(F32(tops[b] - shift), LEAST)
            w = np.float64(exp(delta))
            s0 += w * sums[b, 0]
            s1 += w * (sums[b, 1] + delta * sums[b, 0])
            s2 += w * (sums[b, 2] + delta * (2 * sums[b, 1] + delta * sums[b, 0]))
            for j in range(len(inverse_t)):
                delta = max(
                    F32((tops[b] * HALF - shift * HALF) * (inverse_t[j] + inverse_t[j])), LEAST
                )
                total[3 + j] += exp(delta) * np.float64(sums[b, 3 + j])
    total[0], total[1], total[2] = s0, s1, s2
    if np.isnan(s0):
        tail[1] = np.nan
    elif shift > MINUS_INF:
        _add(tail, shift, total, inverse_t)


@njit(cache=True, nogil=True)
def _rows(flat, stride, size, first_id, inverse_t, values, ids, tails, begin, end):
    """`_row` of the rows begin..end; row r lies at r * stride of `flat`, which is contiguous."""
    blocks = (size + BLOCK - 1) // BLOCK
    tops = np.empty(blocks, np.float32)
    sums = np.empty((blocks, 3 + len(inverse_t)), np.float32)
    for r in range(begin, end):
        x = flat[r * stride : r * stride + size]
        _row(x, first_id, inverse_t, values[r], ids[r], tails[r], tops, sums)


@njit(cache=True, nogil=True)
def _count(flat, stride, size, first_id, low, high, target, counts, begin, end):
    """`count_before`, row by row."""
    for r in range(begin, end):
        x = flat[r * stride : r * stride + size]
        before = min(max(target[r] - first_id, 0), size)  # equal ones before it rank before it
        for i in range(before):
            counts[r] += logit(x, i) >= low[r]
        for i in range(before + (0 <= target[r] - first_id < size), size):
            counts[r] += logit(x, i) > high[r]


def _flat(logits: Tensor) -> tuple[np.ndarray, int]:
    """One contiguous array that holds all rows, and the distance between two of them."""
    x = logits.detach()
    if x.stride(1) != 1:
        x = x.contiguous()
    stride = x.stride(0) if len(x) > 1 else x.shape[1]
    x = x.as_strided(((len(x) - 1) * stride + x.shape[1],), (1,))
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16), stride
    return x.numpy(), stride


class State:
    """Head and tail of N rows, from the chunks of logits seen so far."""

    def __init__(self, rows: int, top_k: int, temperatures: tuple[float, ...]) -> None:
        self.temperatures = temperatures
        self.inverse_t = np.array([1 / t for t in temperatures], np.float32)
        self.values = np.full((rows, top_k), -np.inf, np.float32)
        self.ids = np.full((rows, top_k), -1, np.int32)
        self.tails = np.zeros((rows, 4 + len(temperatures)))  # shift, then sums
        self.tails[:, 0] = -np.inf

    def update(self, logits: Tensor, first_id: int = 0) -> None:
        """Add logits [N, c], float32 or bfloat16, of the ids from `first_id` on, in id order."""
        if not len(logits):
            return
        flat, stride = _flat(logits)
        size = logits.shape[1]

        def work(begin: int, end: int) -> None:
            _rows(flat, stride, size, first_id, self.inverse_t, self.values, self.ids, self.tails,
                  begin, end)  # fmt: skip

        in_threads(work, len(logits))

    def finish(self) -> PositionStats:
        """The statistics of what was added, without targets."""
        values, ids, tails = map(torch.from_numpy, (self.values, self.ids, self.tails))
        shift = tails[:, 0].where(tails[:, 0] > -torch.inf, values[:, 0].double())
        return close(values, ids.long(), shift, tails[:, 1:4], tails[:, 4:], values.shape[1],
                     self.temperatures)  # fmt: skip


def count_before(
    logits: Tensor, first_id: int, low: Tensor, high: Tensor, targets: Tensor, counts: Tensor
) -> None:
    """Add to `counts` [N] how many of the logits [N, c] rank before the target.

    What lies between `low` and `high` [N] equals the target's logit: it is before by a lower id.
    """
    flat, stride = _flat(logits)
    size = logits.shape[1]
    arrays = low.numpy(), high.numpy(), targets.numpy(), counts.numpy()

    def work(begin: int, end: int) -> None:
        _count(flat, stride, size, first_id, *arrays, begin, end)

    in_threads(work, len(logits))


def position_stats(
    logits: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """See `ssd_probe.kernels.stats.position_stats`, which has checked the arguments."""
    if logits.dtype == torch.float16:
        rows = max(1, UPCAST_ELEMENTS // logits.shape[1])
        parts = []
        for start in range(0, max(len(logits), 1), rows):  # one empty step for N = 0
            step = slice(start, start + rows)
            wanted = None if targets is None else targets[step]
            parts.append(position_stats(logits[step].float(), top_k, temperatures, wanted))
        return PositionStats.concat(parts)
    state = State(len(logits), top_k, temperatures)
    state.update(logits)
    stats = state.finish()
    if targets is not None:
        target_fields_of(logits, stats, targets)
    return stats

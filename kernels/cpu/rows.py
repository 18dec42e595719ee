"""A row of logits on CPUs, chunk by chunk: its K largest, and sums over all others.

A chunk is read twice from the cache: for the largest logit of each block of it, which says where
the K largest of all can lie, and for the sums over what is not among these, which are taken
directly: a tail of 1e-30 keeps its digits. No row's result depends on another's.

A token's key orders by (logit descending, id ascending), the largest first: the head of a row is
its K largest keys. Its tail is [shift, sums of w, w y, w y^2, and of e^(y / T)], with
y = z - shift and w = e^y, in float64; the shift is the tail's largest logit, the sums of a row that
is not valid are NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ssd_probe.kernels.cpu.head import (
    ABSENT,
    BLOCK,
    I64,
    LARGEST,
    ZERO,
    _beyond,
    _find,
    _search,
    _sort,
    key_of,
    value_of,
)
from ssd_probe.kernels.cpu.logits import F32, I32, MINUS_INF, U32, logit, top
from ssd_probe.kernels.cpu.tail import INFINITE, NEAR, SEGMENT, _add, _sum

CHUNK = 2**17  # logits read twice: within the second cache or the third
LARGEST_FLOAT = F32(3.4028235e38)


@njit
def _chunk(x, first_id, temperatures, inverse_t, head, tail, scratch):
    """Add the logits x, of ids from `first_id` on, to a row's head and tail."""
    tops, marks, found, before, _, total = scratch
    tops = tops[: (len(x) + BLOCK - 1) // BLOCK]
    most = I32(-(2**31))
    for b in range(len(tops)):
        tops[b] = top(x[b * BLOCK : (b + 1) * BLOCK])
        tops[b] = ZERO if tops[b] == ZERO - 1 else tops[b]  # -0.0
        most = max(most, tops[b])
    if most > LARGEST:
        tail[1] = np.nan
    if np.isnan(tail[1]):
        return
    before[:] = head
    if most >= head[-1] >> I64(32):
        _search(x, first_id, head, tops, marks, found)
    if head[-1] <= ABSENT:  # all are in the head
        return
    shift, ties = _beyond(x, first_id, head, tops)
    if shift > MINUS_INF:
        total[:] = 0
        for begin in range(0, len(x), SEGMENT):
            _sum(x[begin : begin + SEGMENT], shift, inverse_t, total)
        _add(tail, np.float64(shift), total, temperatures)
    if ties > 0:
        total[:] = ties
        total[1:3] = 0
        _add(tail, np.float64(value_of(head[-1])), total, temperatures)
    _add_beyond(tail, before, head[-1], temperatures, inverse_t, scratch)


@njit
def _next(x, first_id, temperatures, inverse_t, head, tail, scratch):
    """`_chunk` in one pass, where the head is full and changes little; False: nothing was done.

    What is not above the K-th logit so far is in the tail, by its id if it is equal.
    """
    found, total = scratch[2], scratch[5]
    k, cut = len(head), value_of(head[-1])
    if not cut > MINUS_INF or np.isnan(tail[1]):
        return False
    found[:k] = head
    count, nearest = k, U32(0xFFFFFFFF)
    total[:] = 0
    for begin in range(0, len(x), SEGMENT):
        segment = x[begin : begin + SEGMENT]
        near, far = _sum(segment, cut, inverse_t, total)
        nearest = min(nearest, near)
        if far <= INFINITE:
            continue
        for start in range(0, len(segment), BLOCK):
            block = segment[start : start + BLOCK]
            above, last = _find(block, cut)
            if count + above > len(found):
                return False
            for i in range(last if above == 1 else 0, last + 1):
                v = logit(block, i)
                if not v <= cut:
                    if not v <= LARGEST_FLOAT:
                        return False
                    found[count] = key_of(v, first_id + begin + start + i)
                    count += 1
    if nearest > NEAR:  # float32 would lose digits of a tail so far below
        return False
    _add(tail, np.float64(cut), total, temperatures)
    if count > k:
        _sort(found[:count], k, head)
        _add_beyond(tail, found[:count], head[-1], temperatures, inverse_t, scratch)
    return True


@njit
def _add_beyond(tail, keys, last, temperatures, inverse_t, scratch):
    """Add to a row's tail the logits of those of `keys` that rank behind `last`."""
    values, total = scratch[4:]
    count, most = 0, MINUS_INF
    for i in range(len(keys)):
        values[count] = value_of(keys[i])
        beyond = ABSENT < keys[i] < last
        most = max(most, values[count] if beyond else MINUS_INF)
        count += beyond
    if count:
        total[:] = 0
        _sum(values[:count], most, inverse_t, total)
        _add(tail, np.float64(most), total, temperatures)


@njit
def _scratch(size, k, temperatures):
    blocks = (min(size, CHUNK) + BLOCK - 1) // BLOCK
    return (
        np.empty(blocks, np.int32),  # the order of the largest logit of each block
        np.empty(blocks + 1, np.int64),  # keys of blocks
        np.empty(k + max(k, 256) + BLOCK, np.int64),  # keys of logits
        np.empty(k, np.int64),  # the head before a chunk
        np.empty(k + max(k, 256) + BLOCK, np.float32),  # logits
        np.empty(3 + temperatures, np.float64),  # a chunk's sums
    )


@njit(cache=True, nogil=True)
def add(flat, stride, size, first_id, temperatures, heads, tails, begin, end):
    """Add logits to the heads and tails of the rows begin..end; row r lies at r * stride of `flat`,
    which is contiguous."""
    inverse_t = (1 / temperatures).astype(np.float32)
    scratch = _scratch(size, heads.shape[1], len(temperatures))
    for r in range(begin, end):
        for start in range(0, size, CHUNK):
            x = flat[r * stride + start : r * stride + min(start + CHUNK, size)]
            rest = first_id + start, temperatures, inverse_t, heads[r], tails[r], scratch
            if not _next(x, *rest):
                _chunk(x, *rest)

"""The head of a row of logits on CPUs: its K largest keys, the largest first.

A token's key orders by (logit descending, id ascending). The largest logit of each block of a chunk
says where the K largest of all can lie.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ssd_probe.kernels.cpu.logits import F32, I32, logit, of_order, order

I64 = np.int64
BLOCK = 128  # logits that share a largest one
COUNTED = 192  # keys that are sorted by counting larger ones, which has no branches
LARGEST, ZERO = I64(0x7F000000), I32(-0x007FFFFF)  # the `order` of the largest float and of 0.0
LOW_BITS = I64(0xFFFFFFFF)


@njit
def key_of(value, index):
    """Larger for larger logits, and of equal ones for the lower id; 0.0 and -0.0 are equal."""
    return (I64(order(F32(value + F32(0)))) << I64(32)) | (LOW_BITS - I64(index))


@njit
def value_of(key):
    return of_order(I32(key >> I64(32)))


@njit
def id_of(key):
    return LOW_BITS - (key & LOW_BITS)


ABSENT = int(np.int64(-(2**63)) | LOW_BITS)  # the key of -inf and id 0: no token's key is larger


@njit
def _reached(tops, k, least):
    """An order above `least` that k of `tops`, or few more, reach; `least` where there is none."""
    low, high = I64(least), I64(LARGEST)
    while high - low > 1:
        middle = low + (high - low) // 2
        count = I32(0)
        for b in range(len(tops)):
            count += I32(tops[b] >= I32(middle))
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + k // 4:
                break
    return low


@njit
def _under(key):
    """The largest float below the one of this order; NaN below -inf."""
    return of_order(I32(key - (2 if key == ZERO else 1)))


@njit
def _find(x, below):
    """How many of the logits are above `below`, or NaN, and the last one's place."""
    count, last = I32(0), I32(-1)
    for i in range(len(x)):
        above = not logit(x, i) <= below
        count += I32(above)
        last = max(last, I32(i) if above else I32(-1))
    return count, last


@njit
def _keep(found, count, k):
    """Move the k largest of `found[:count]` to its front; the least of them."""
    found[:k] = np.partition(found[:count], count - k)[count - k :]
    return found[:k].min()


@njit
def _larger(keys, key):
    count = 0
    for i in range(len(keys)):
        count += keys[i] > key
    return count


@njit
def _sort(found, ranked, head):
    """The largest of the keys into `head`, descending, as the first `ranked` of them are."""
    k, new = len(head), found[ranked:]
    if len(found) > COUNTED:
        head[:] = np.sort(found)[::-1][:k]
        return
    for i in range(len(found)):
        key = found[i]
        rank = i + _larger(new, key) if i < ranked else _larger(found, key)
        if rank < k:
            head[rank] = key


@njit
def _search(x, first_id, head, tops, marks, found):
    """Put the chunk's logits that belong to the K largest into `head`.

    `tops`: the order of the largest logit of each block; `marks`, `found`: scratch.
    """
    k = len(head)
    least = head[-1]  # keys up to this one are not among the K largest
    reached = _reached(tops, k, least >> I64(32))
    if reached > least >> I64(32):
        least = (reached << I64(32)) - 1
    below = _under(reached)
    many = 0
    for b in range(len(tops)):  # keys no smaller than any in their block
        marks[many] = (I64(tops[b]) << I64(32)) | (LOW_BITS - (first_id + b * BLOCK))
        many += marks[many] > least
    found[:k] = head
    count, in_order = k, False
    for m in range(many):
        if count + BLOCK > len(found):
            least = max(least, _keep(found, count, k))
            below = _under(least >> I64(32))
            count = k
            if not in_order:  # the largest first, so that few have to follow
                marks[m:many] = np.sort(marks[m:many])[::-1]
                in_order = True
        if marks[m] <= least:
            continue
        first = id_of(marks[m]) - first_id
        block = x[first : first + BLOCK]
        above, last = _find(block, below)
        for i in range(last if above == 1 else 0, last + 1):
            key = key_of(logit(block, i), first_id + first + i)
            if key > least:
                found[count] = key
                count += 1
    if count > k or in_order:
        _sort(found[:count], 0 if in_order else k, head)


@njit
def _below(x, cut):
    """The order of the largest logit below `cut`, and how many equal it."""
    most, equal = I32(-(2**31)), I32(0)
    for i in range(len(x)):
        v = logit(x, i)
        most = max(most, order(v) if v < cut else I32(-(2**31)))
        equal += I32(v == cut)
    return most, equal


@njit
def _beyond(x, first_id, head, tops):
    """The chunk's largest logit below the K-th, and how many equal that one beyond rank K."""
    cut = value_of(head[-1])
    least, most, ties = order(cut), I32(-(2**31)), 0
    for b in range(len(tops)):
        if tops[b] < least:
            most = max(most, tops[b])
        else:
            lower, equal = _below(x[b * BLOCK : (b + 1) * BLOCK], cut)
            most = max(most, lower)
            ties += equal
    rank = len(head) - 1
    while rank >= 0 and value_of(head[rank]) == cut:
        ties -= id_of(head[rank]) >= first_id
        rank -= 1
    return of_order(most), ties

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

from ssd_probe.kernels.cpu.logits import (
    F32,
    I32,
    LEAST,
    MINUS_INF,
    U32,
    exp,
    logit,
    of_order,
    order,
    top,
)

I64 = np.int64
BLOCK = 128  # logits that share a largest one
SEGMENT = 256  # logits summed in float32 before they join the float64 sums; more blur varentropy
CHUNK = 2**17  # logits read twice: within the second cache or the third
COUNTED = 192  # keys that are sorted by counting larger ones, which has no branches
FAR, NEAR, INFINITE = (F32(y).view(np.uint32) for y in (-LEAST, 20, np.inf))
HALF, TWO = F32(0.5), F32(2)
LARGEST, ZERO = I64(0x7F000000), I32(-0x007FFFFF)  # the `order` of the largest float and of 0.0
LOW_BITS = I64(0xFFFFFFFF)
LARGEST_FLOAT = F32(3.4028235e38)


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

"""How logits are ordered: int32 of a logit, and int64 keys of a logit with its id."""

from __future__ import annotations

import triton
import triton.language as tl

INT_MAX = tl.constexpr(2**31 - 1)
NOTHING = tl.constexpr(-(2**63))  # below every key


@triton.jit
def _ordered(x):
    """Float32 -> int32 in the same order, -0.0 as 0.0; its own inverse on the bits."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -(2**31) - bits, bits)


@triton.jit
def _order(x, D: tl.constexpr):
    """int32 in the order of logits x, without the D last bits, which they lack. NaN is some."""
    return _ordered(x) >> D


@triton.jit
def _logit(order, D: tl.constexpr):
    """The logit of an order."""
    bits = order << D
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _empty(D: tl.constexpr):
    """`_order` of -inf."""
    return -0x7F800000 >> D


@triton.jit
def _key(order, index, D: tl.constexpr):
    """int64 keys by (logit descending, index ascending)."""
    return ((order << D).to(tl.int64) << 32) + (-index + INT_MAX)


@triton.jit
def _value(key):
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits < 0, -(2**31) - bits, bits).to(tl.float32, bitcast=True)


@triton.jit
def _index(key):
    return (-(key & 0xFFFFFFFF) + INT_MAX).to(tl.int32)


@triton.jit
def _places(n: tl.constexpr):
    """0..n-1, one to a thread in turn: so scattered stores, in any order, exchange nothing."""
    return tl.max_contiguous(tl.arange(0, n), 1)


@triton.jit
def _count(mask):
    """How many there are; of two dimensions, the first lies within a thread."""
    count = mask.to(tl.int32)
    return tl.sum(tl.sum(count, 0), 0) if len(mask.shape) == 2 else tl.sum(count)


@triton.jit
def _middle(low, high):
    return (low >> 1) + (high >> 1) + (low & high & 1)  # low + high overflows


@triton.jit
def _reaches(order, ids, cut, last):
    """Which come at or before (cut, last), by (order descending, id ascending)."""
    return (order > cut) | ((order == cut) & (ids <= last))

"""Logits in the memory of a tensor, of any of the dtypes, as numba reads them: as float32."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit
from numba.extending import overload
from torch import Tensor

F32, I16, I32, U16, U32 = np.float32, np.int16, np.int32, np.uint16, np.uint32
MINUS_INF = F32(-np.inf)
LEAST = F32(-87)  # below it e^y is a subnormal number, and slow
LOG2E = F32(1.4426950408889634)
LN2 = F32(0.6931471805599453)
ROUND = F32(1.5 * 2**23)  # x + ROUND has round(x) in its last bits
C2, C3, C4, C5 = map(  # e^r = 1 + r + C2 r^2 + ... for |r| <= ln(2) / 2, to 1.2e-7 relative
    F32, (0.49999142, 0.16666887, 0.04189868, 0.00833384)
)


def flat(logits: Tensor) -> tuple[np.ndarray, int]:
    """One contiguous array that holds all rows [N, V], and the distance between two of them.

    float32, or the bits: uint16 of bfloat16, int16 of float16.
    """
    x = logits.detach()
    if x.stride(1) != 1 and x.shape[1] > 1:
        x = x.contiguous()
    stride = x.stride(0) if len(x) > 1 else x.shape[1]
    x = x.as_strided((max(0, (len(x) - 1) * stride + x.shape[1]),), (1,))
    if x.dtype == torch.float32:
        return x.numpy(), stride
    bits = x.view(torch.int16).numpy()
    return bits if x.dtype == torch.float16 else bits.view(np.uint16), stride


# Its own flags, or it inherits the caller's, and reassociated, n would be no integer.
@njit(fastmath={"contract"})
def exp(y):
    """e^y, float32, for -87 <= y <= 87: 2^n e^r with |r| <= ln(2) / 2; vectorises when inlined."""
    shifted = F32(y * LOG2E + ROUND)
    n = F32(shifted - ROUND)
    r = F32(y - n * LN2)
    p = F32(((((C5 * r + C4) * r + C3) * r + C2) * r + F32(1)) * r + F32(1))
    return I32((shifted.view(np.int32) << I32(23)) + p.view(np.int32)).view(np.float32)


@njit
def _of_half(bits):
    """The float32 of a float16, of any kind."""
    size = U32(U32(bits) & U32(0x7FFF))
    moved = U32(size << U32(13))
    finite = F32(moved.view(np.float32) * F32(2.0**112)).view(np.uint32)
    found = U32(moved | U32(0x7F800000)) if size >= U32(0x7C00) else finite
    return U32(found | U32(U32(U32(bits) & U32(0x8000)) << U32(16))).view(np.float32)


def logit(x, i):
    """x[i] as float32."""


@overload(logit, inline="never")
def _logit(x, i):
    if x.dtype == numba.uint16:
        return lambda x, i: U32(U32(x[i]) << U32(16)).view(np.float32)
    if x.dtype == numba.int16:
        return lambda x, i: _of_half(x[i])
    return lambda x, i: x[i]


@njit
def order(value):
    """An int32 that orders floats: -inf, the finite ones, +inf, NaN of either sign."""
    bits = F32(value).view(np.int32)
    return I32(I32(bits ^ ((bits >> I32(31)) & I32(0x7FFFFFFF))) - I32(0x007FFFFF))


@njit
def of_order(key):
    """The float whose `order` this is."""
    bits = I32(key + I32(0x007FFFFF))
    return I32(bits ^ ((bits >> I32(31)) & I32(0x7FFFFFFF))).view(np.float32)


@njit
def _top_of_bits(x, above_inf):
    """The bits of the largest of 16-bit floats, `above_inf` being how many NaN a sign has."""
    key = I16(-(2**15))
    for i in range(len(x)):
        bits = I16(x[i])
        key = max(key, I16(I16(bits ^ I16(I16(bits >> I16(15)) & I16(0x7FFF))) - above_inf))
    key = I16(key + above_inf)
    return I16(key ^ I16(I16(key >> I16(15)) & I16(0x7FFF)))


def top(x):
    """The `order` of the largest of logits, or of a NaN where there is any."""


@overload(top, inline="never")
def _top(x):
    # As integers, whose maximum vectorises; those of 16 bits twice as many at a time.
    def of_bfloat16(x):
        bits = _top_of_bits(x, I16(0x007F))
        return order(U32(U32(U16(bits)) << U32(16)).view(np.float32))

    def of_float16(x):
        return order(_of_half(_top_of_bits(x, I16(0x03FF))))

    def of_float32(x):
        key = I32(-(2**31))
        for i in range(len(x)):
            key = max(key, order(x[i]))
        return key

    return {numba.uint16: of_bfloat16, numba.int16: of_float16}.get(x.dtype, of_float32)

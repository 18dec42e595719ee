"""What the K likeliest tokens' probabilities say of a whole distribution: numbers, or intervals.

Known of p over V tokens are log p of ranks 1..K, each to an error. What lies beyond has the mass
r = 1 - sum of the K, and no token of it has more than c = p_K. So of a sum of f(p) = p g(p), with g
falling (-log p for the entropy, log^2 p for the variance of log p), the tail's part is

    at least  r g(min(c, r))             reached where r / c is whole, or r <= c
    at most   r g(r / (V - K))           reached by V - K equal tokens

and each of the K adds what f is least and most within its error.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_ERROR = 1e-6  # of a log-probability, relative to its size above 1: float32 software


class Interval(NamedTuple):
    """Low and high [N]; NaN in `high` where nothing bounds it."""

    low: Floats
    high: Floats


class Bounds(NamedTuple):
    """Of N distributions: mass beyond rank K; H in nats; Var(log p)."""

    tail: Interval
    entropy: Interval
    varentropy: Interval


def bounds(
    log_p: Floats, decimals: int, vocabulary: int | None = None, may_lack: NDArray | None = None
) -> Bounds:
    """From log p [N, K] of the K likeliest, descending, as a file writes them.

    decimals: how many it writes, hence an error of half of the last, and `LEAST_ERROR` at least;
    vocabulary: V; without it an entropy has no upper end where there is a tail. may_lack: [N], rows
    whose tail may hold a token likelier than rank K.
    """
    error = np.maximum(0.5 * 10.0**-decimals, LEAST_ERROR * np.maximum(1, np.abs(log_p)))
    log_low, log_high = log_p - error, np.minimum(log_p + error, 0)
    tail = _tail(log_low, log_high, vocabulary, may_lack)
    cap = np.exp(log_high[:, -1])
    if may_lack is not None:
        cap = np.where(may_lack, 1.0, cap)
    count = np.inf if vocabulary is None else vocabulary - log_p.shape[1]
    first = _sum_of(_entropy_term, 1 / np.e, log_low, log_high, tail, cap, count)
    second = _sum_of(_square_term, np.exp(-2), log_low, log_high, tail, cap, count)
    low = np.maximum(second.low - first.high**2, 0)
    varentropy = Interval(np.nan_to_num(low), second.high - first.low**2)
    return Bounds(tail, first, varentropy)


def _tail(log_low: Floats, log_high: Floats, vocabulary: int | None, may_lack: Any) -> Interval:
    low = np.maximum(1 - np.exp(log_high).sum(1), 0)
    high = np.clip(1 - np.exp(log_low).sum(1), 0, 1)
    if vocabulary is not None:
        most = (vocabulary - log_low.shape[1]) * np.exp(log_high[:, -1])
        most = most if may_lack is None else np.where(may_lack, np.inf, most)
        high = np.minimum(high, most)
        low = np.minimum(low, high)
    return Interval(low, high)


def _sum_of(
    term: Any,
    peak: float,
    log_low: Floats,
    log_high: Floats,
    tail: Interval,
    cap: Floats,
    count: float,
) -> Interval:
    """Of sum f(p); `peak`: where f is most, rising before and falling after."""
    ends = term(np.exp(log_low)), term(np.exp(log_high))
    inside = (log_low < np.log(peak)) & (log_high > np.log(peak))
    most = np.where(inside, term(np.array(peak)), np.maximum(*ends))
    low = np.minimum(*ends).sum(1) + _least(term, tail, cap)
    return Interval(low, most.sum(1) + _most(term, peak, tail, count))


def _least(term: Any, tail: Interval, cap: Floats) -> Floats:
    """Of the tail's part, over all its masses: it falls nowhere but below c, where it is f(r)."""
    lowest = np.full(len(cap), np.inf)
    for mass in (*tail, np.clip(cap, *tail)):
        each = np.minimum(cap, mass)
        share = np.divide(mass, each, out=np.zeros_like(mass), where=each > 0)
        lowest = np.minimum(lowest, share * term(each))
    return lowest


def _most(term: Any, peak: float, tail: Interval, count: float) -> Floats:
    """NaN where it is not known how many tokens the tail has."""
    if not np.isfinite(count):
        return np.where(tail.high > 0, np.nan, 0.0)
    if count == 0:
        return np.zeros_like(tail.high)
    each = np.clip(count * peak, *tail) / count
    # Above 1 / e, where p log^2 p is not concave, equal tokens need not be the most.
    return count * term(np.where(each > 1 / np.e, peak, each))


def _entropy_term(p: Floats) -> Floats:
    return -p * np.log(np.where(p > 0, p, 1))


def _square_term(p: Floats) -> Floats:
    return p * np.log(np.where(p > 0, p, 1)) ** 2

"""The toy machine solved: the best temperature of base and student, exactly.

    P(T) = prod_s q_s(right_s)^times_s,    q_s = the position's distribution, tempered, truncated

P is smooth in T but for jumps where a nucleus changes size. The optimum is therefore searched
piece by piece: all jumps first (`pieces`), then inside each smooth piece, its ends included.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_probe.analysis.toy.machine import PAPER, Machine, Position, policy
from ssd_probe.decoding import Decoding

T_RANGE = (0.01, 100.0)  # temperatures searched


class Optimum(NamedTuple):
    """The best success over `T_RANGE`, at the lowest temperature that has it."""

    temperature: float
    success: float
    at_jump: bool  # at an end of a smooth piece: beyond it, a nucleus has another size


def success(
    positions: Sequence[Position], temperatures: ArrayLike, decoding: Decoding
) -> NDArray[np.float64]:
    """P(T), [n]: probability that a run draws a right token at every position."""
    chances = [
        policy(s, temperatures, decoding)[:, list(s.right)].sum(1) ** s.times for s in positions
    ]
    return np.prod(chances, axis=0)


def pieces(positions: Sequence[Position], decoding: Decoding) -> NDArray[np.float64]:
    """First and last temperature of each smooth piece of P in `T_RANGE`, ascending, [n, 2].

    The mass of the m most likely tokens falls with T, so a nucleus only grows with T, and for each
    m there is one last temperature with m tokens. It is found by bisection down to neighbouring
    floats, with `Decoding` itself as the judge: both one-sided limits of P are at hand.
    """
    low, high = T_RANGE
    jumps: set[tuple[float, float]] = set()
    for s in positions:
        smallest, largest = _sizes(s, T_RANGE, decoding)
        wanted = np.arange(smallest, largest)
        last, first = np.full(len(wanted), low), np.full(len(wanted), high)
        while len(wanted):
            middle = (last + first) / 2
            if not ((last < middle) & (middle < first)).any():
                break
            fits = _sizes(s, middle, decoding) <= wanted
            last, first = np.where(fits, middle, last), np.where(fits, first, middle)
        jumps |= set(zip(last.tolist(), first.tolist(), strict=True))
    ordered = sorted(jumps)
    starts = [low, *(first for _, first in ordered)]
    ends = [*(last for last, _ in ordered), high]
    return np.array([(a, b) for a, b in zip(starts, ends, strict=True) if a <= b])


def optimum(positions: Sequence[Position], decoding: Decoding) -> Optimum:
    """The maximum of P over `T_RANGE`; between the jumps to within 1e-13 of log P.

    A piece is searched by branch and bound in gamma = 1/T, where (section 3)
    d log P / d gamma = sum_s times (E_right[log p] - E_S[log p]) and the second derivative,
    sum_s times (Var_right - Var_S), is at most sum_s times (range of log p over right)^2 / 4.
    """
    parts = pieces(positions, decoding)
    ends = success(positions, parts.ravel(), decoding)
    known = ends.max()
    inside = [_smooth_maximum(positions, decoding, a, b, known) for a, b in parts]
    candidates = np.sort([*parts.ravel(), *(t for t in inside if t is not None)])
    values = success(positions, candidates, decoding)
    i = int(np.argmax(values >= values.max() * (1 - 1e-13)))  # the lowest of those on a plateau
    found = float(candidates[i])
    return Optimum(found, float(values[i]), found in parts and found not in T_RANGE)


def solve(machine: Machine = PAPER) -> dict[str, Any]:
    """What `ssd-probe toy --json` prints: both optima, over the top-p too, and the student."""
    student = machine.student()

    def best(positions: Sequence[Position], top_p: float) -> dict[str, float]:
        found = optimum(positions, replace(machine.evaluation, top_p=top_p))
        return {"temperature": found.temperature, "success": found.success}

    def both(top_p: float) -> dict[str, dict[str, float]]:
        return {"base": best(machine.positions, top_p), "student": best(student, top_p)}

    return {
        **both(machine.evaluation.top_p),
        "robustness": [{"top_p": top_p, **both(top_p)} for top_p in machine.robustness],
        "student_distributions": {s.name: s.probabilities.tolist() for s in student},
    }


def _sizes(position: Position, temperatures: ArrayLike, decoding: Decoding) -> NDArray[np.int64]:
    return (policy(position, temperatures, decoding) > 0).sum(1)


def _smooth_maximum(
    positions: Sequence[Position], decoding: Decoding, first: float, last: float, known: float
) -> float | None:
    """The best temperature of one piece, or None if nothing in it exceeds `known`."""
    terms, curvature = [], 0.0
    for s in positions:
        kept = np.flatnonzero(policy(s, [(first + last) / 2], decoding)[0])
        right = np.intersect1d(kept, s.right)
        if len(right) == 0:
            return None
        if len(right) < len(kept):  # else the position is passed for sure
            log_p, log_right = np.log(s.probabilities[kept]), np.log(s.probabilities[right])
            terms += [(s.times, log_right), (-s.times, log_p)]
            curvature += s.times * np.ptp(log_right) ** 2 / 4
    edges = np.linspace(1 / last, 1 / first, 17)
    centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]) / 2
    where, best = None, np.log(known) if known > 0 else -np.inf
    while terms and len(centre):
        value, slope = _log_success(terms, centre)
        i = int(value.argmax())
        if value[i] > best:
            where, best = float(np.clip(1 / centre[i], first, last)), value[i]
        gain = np.abs(slope) * half + curvature * half**2 / 2  # the most that an interval can add
        centre = centre[(value + gain > best) & (gain > 1e-13)]
        # A plateau that no bound excludes would double for ever; it is flat, so nothing is lost.
        centre = centre[:100_000]
        half /= 2
        centre = np.concatenate([centre - half, centre + half])
    return where


def _log_success(
    terms: list[tuple[int, NDArray[np.float64]]], gamma: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """sum of weight * logsumexp(gamma log p) over terms, and its slope in gamma, [n] each."""
    value, slope = np.zeros_like(gamma), np.zeros_like(gamma)
    for weight, logs in terms:
        powers = np.exp(gamma[:, None] * (logs - logs.max()))  # [n, tokens]
        total = powers.sum(1)
        value += weight * (gamma * logs.max() + np.log(total))
        slope += weight * (powers @ logs) / total
    return value, slope

"""The toy machine (paper, section 5, appendix C.4): forks, locks and one temperature, exactly.

A run passes a fixed chain of positions; at each it must draw a right token, and all else fails:

    P(T) = prod_s q_s(right_s)^times_s,    q_s = the position's distribution, tempered, truncated

P is smooth in T but for jumps where a nucleus changes size. The optimum is therefore searched
piece by piece: all jumps first (`pieces`), then inside each smooth piece, its ends included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_yaml

T_RANGE = (0.01, 100.0)  # temperatures searched
_KEYS = {"vocabulary", "positions", "train", "evaluation", "robustness"}
_POSITION_KEYS = {"probabilities", "head", "tail", "right", "times"}


@dataclass(frozen=True)
class Position:
    """A step of the machine: its distribution [V], the ids that go on, how often it is passed."""

    name: str
    probabilities: NDArray[np.float64]
    right: tuple[int, ...] = (0,)
    times: int = 1


@dataclass(frozen=True)
class Machine:
    """The chain, how the student is made, and how both are decoded (at any temperature)."""

    positions: tuple[Position, ...]
    train: Decoding = Decoding(0.9, 0, 0.85)
    evaluation: Decoding = Decoding(1.0, 0, 0.80)
    robustness: tuple[float, ...] = (0.65, 0.70, 0.75, 0.80, 0.85, 0.90)

    def student(self) -> tuple[Position, ...]:
        """The exact ideal fit (Prop. B.2): each position becomes its own training target."""
        return tuple(
            replace(s, probabilities=policy(s, [self.train.temperature], self.train)[0])
            for s in self.positions
        )


class Optimum(NamedTuple):
    """The best success over `T_RANGE`, at the lowest temperature that has it."""

    temperature: float
    success: float
    at_jump: bool  # at an end of a smooth piece: beyond it, a nucleus has another size


def with_tail(head: Sequence[float], ratio: float, size: int) -> NDArray[np.float64]:
    """`head`, then a geometric tail over the other tokens that sums to the rest, [size]."""
    weights = ratio ** np.arange(size - len(head))
    return np.concatenate([head, (1 - sum(head)) * weights / weights.sum()])


# The ratios are not printed: 0.75 and 0.5 follow from the printed entropies (lock 1.61 bits, fork
# 2.81 bits); the root's 0.5 is a choice, and any up to 0.8 has the same two optima.
PAPER = Machine(
    (
        Position("root", with_tail([0.200, 0.190, 0.329, 0.126], 0.5, 16), (0, 1)),
        Position("fork", with_tail([0.148, 0.280, 0.140, 0.144], 0.5, 16)),
        Position("lock", with_tail([0.750, 0.055, 0.050, 0.037], 0.75, 16), times=3),
    )
)


def policy(position: Position, temperatures: ArrayLike, decoding: Decoding) -> NDArray[np.float64]:
    """What is drawn at a position: [n, V] for n temperatures, which replace `decoding`'s own."""
    temperatures = np.asarray(temperatures, np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(position.probabilities) / temperatures[:, None]
    warped = replace(decoding, temperature=1.0).warp(torch.from_numpy(logits))
    return warped.softmax(-1).numpy()


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


def describe(machine: Machine, solved: dict[str, Any]) -> str:
    """`solve`'s result as a table for people; the lowest temperature of each optimum."""
    base, student = machine.positions, machine.student()
    width = max(8, *(len(s.name) for s in base))
    lines = [f"student: exact ideal fit at {machine.train}", ""]
    lines += [f"{'position':<{width}}  times  bits, base -> student    tokens     right"]
    for before, after in zip(base, student, strict=True):
        bits = [float(entr(s.probabilities).sum() / np.log(2)) for s in (before, after)]
        sizes = [int((s.probabilities > 0).sum()) for s in (before, after)]
        right = ", ".join(f"tok{i}" for i in before.right)
        lines.append(
            f"{before.name:<{width}}  {before.times:>5}  {bits[0]:>10.2f} -> {bits[1]:<11.2f}"
            f"{sizes[0]:>6} -> {sizes[1]:<4}  {right}"
        )
    lines += ["", "top-p    base: success  at T       student: success  at T"]
    chosen = {"top_p": machine.evaluation.top_p, "base": solved["base"]}
    rows = [*solved["robustness"], chosen | {"student": solved["student"]}]
    for row in sorted({row["top_p"]: row for row in rows}.values(), key=lambda row: row["top_p"]):
        cells = (f"{100 * row[m]['success']:>11.3f} %  {row[m]['temperature']:<9.4f}"
                 for m in ("base", "student"))  # fmt: skip
        mark = "  <- evaluation" if row["top_p"] == machine.evaluation.top_p else ""
        lines.append(f"{row['top_p']:<8g}" + "     ".join(cells).rstrip() + mark)
    return "\n".join(lines)


def success_curve(machine: Machine, low: float, high: float, points: int = 400) -> pd.DataFrame:
    """P against T for a plot: model, piece, temperature, success; both ends of every piece."""
    frames = []
    for model, positions in (("base", machine.positions), ("ssd", machine.student())):
        for i, (first, last) in enumerate(pieces(positions, machine.evaluation)):
            first, last = max(first, low), min(last, high)
            if first <= last:
                n = 2 + int(points * (last - first) / (high - low))
                t = np.linspace(first, last, n)
                p = success(positions, t, machine.evaluation)
                frame = pd.DataFrame({"temperature": t, "success": p})
                frames.append(frame.assign(model=model, piece=i))
    return pd.concat(frames, ignore_index=True)


def distributions(machine: Machine, temperatures: dict[str, float] | None = None) -> pd.DataFrame:
    """Long form for a plot: model, position, token, probability, right.

    temperatures: by model ("base", "ssd"), decoded by `machine.evaluation`; without it, the
    distributions themselves, nothing tempered or cut.
    """
    rows = []
    for model, positions in (("base", machine.positions), ("ssd", machine.student())):
        for s in positions:
            q = s.probabilities
            if temperatures is not None:
                q = policy(s, [temperatures[model]], machine.evaluation)[0]
            columns = {"token": np.arange(len(q)), "probability": q}
            right = np.isin(columns["token"], s.right)
            rows.append(pd.DataFrame(columns).assign(model=model, position=s.name, right=right))
    return pd.concat(rows, ignore_index=True)


def first_tokens(frame: pd.DataFrame, rows: int = 5) -> pd.DataFrame:
    """`distributions` with all but the `rows` first tokens of a position as one row, "others"."""
    names = np.where(frame["token"] < rows, "tok" + frame["token"].astype(str), "others")
    groups = frame.assign(row=names).groupby(["model", "position", "row"], sort=False)
    return groups.agg({"probability": "sum", "right": "any"}).reset_index()


def load_machine(path: Path) -> Machine:
    """A machine from YAML or JSON; the README shows the keys. Raises UserError, one line each."""
    given = read_yaml(path)
    try:
        return _machine(given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _machine(given: Any) -> Machine:
    _known(given, _KEYS, "the machine")
    if not isinstance(given.get("positions"), dict) or not given["positions"]:
        raise UserError("positions: must be a mapping of names to positions")
    size = given.get("vocabulary")
    if size is not None and (not _is_int(size) or size < 2):
        raise UserError(f"vocabulary = {size!r}: must be an integer >= 2")
    positions = tuple(
        _position(str(name), entry, size) for name, entry in given["positions"].items()
    )
    train = _decoding(given, "train", PAPER.train)
    evaluation = _decoding(given, "evaluation", PAPER.evaluation)
    robustness = given.get("robustness", list(PAPER.robustness))
    if not isinstance(robustness, list):
        raise UserError(f"robustness = {robustness!r}: must be a list of top-p")
    levels = tuple(replace(evaluation, top_p=top_p).top_p for top_p in robustness)
    return Machine(positions, train, evaluation, levels)


def _position(name: str, entry: Any, size: int | None) -> Position:
    where = f"position {name!r}"
    _known(entry, _POSITION_KEYS, where)
    if ("probabilities" in entry) == ("head" in entry):
        raise UserError(f"{where}: needs either probabilities, or head and tail")
    if "tail" in entry and "head" not in entry:
        raise UserError(f"{where}: tail goes with head")
    if "head" in entry:
        head, tail = _masses(entry["head"], f"{where}: head"), entry.get("tail")
        if size is None or size <= len(head):
            raise UserError(f"{where}: a head needs a vocabulary larger than it")
        if sum(head) > 1 or not _is_number(tail) or not 0 < tail <= 1:
            raise UserError(f"{where}: a head sums to at most 1, and its tail is a ratio in (0, 1]")
        probabilities = with_tail(head, tail, size)
    else:
        masses = _masses(entry["probabilities"], f"{where}: probabilities")
        if abs(sum(masses) - 1) > 1e-6:
            raise UserError(f"{where}: probabilities sum to {sum(masses):.6g}, not 1")
        if size not in (None, len(masses)):
            raise UserError(f"{where}: {len(masses)} probabilities, vocabulary {size}")
        probabilities = np.array(masses) / sum(masses)
    right, times = entry.get("right", [0]), entry.get("times", 1)
    if (
        not isinstance(right, list)
        or not right
        or not all(_is_int(i) and 0 <= i < len(probabilities) for i in right)
    ):
        raise UserError(f"{where}: right = {right!r}: must be ids in 0..{len(probabilities) - 1}")
    if not _is_int(times) or times < 1:
        raise UserError(f"{where}: times = {times!r}: must be an integer >= 1")
    return Position(name, probabilities, tuple(sorted(set(right))), times)


def _decoding(given: dict, name: str, default: Decoding) -> Decoding:
    """`train` or `evaluation`; what is left out is off, and a missing mapping is the paper's."""
    if name not in given:
        return default
    allowed = {"top_k", "top_p"} | ({"temperature"} if name == "train" else set())
    _known(given[name], allowed, name)
    try:
        return Decoding(**given[name])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _known(given: Any, keys: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise UserError(f"{where}: must be a mapping")
    unknown = sorted(str(key) for key in given.keys() - keys)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys))}")


def _masses(values: Any, where: str) -> list[float]:
    if (
        not isinstance(values, list)
        or not values
        or not all(_is_number(x) and 0 <= x <= 1 for x in values)
    ):
        raise UserError(f"{where}: must be a list of numbers in 0..1")
    return [float(x) for x in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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

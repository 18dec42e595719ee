"""How good a rule for forks and locks is: against positions of known kind, against what became of
programs (`branching`), other rules, other parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, mannwhitneyu

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK, OPEN
from ssd_probe.errors import UserError

MEASURES = ("auc", "fork_f1", "lock_f1", "best_fork_from", "best_fork_f1", "best_lock_to",
            "best_lock_f1")  # fmt: skip
_BATCH_ELEMENTS = 4_000_000

Floats = NDArray[np.float64]


class Rated(NamedTuple):
    """What a rule says of N positions."""

    score: ArrayLike  # [N], higher = more fork, NaN where unknown
    label: ArrayLike  # [N], one of `labels.KINDS`


def score_against_truth(
    labels: ArrayLike, truth: ArrayLike, branching: ArrayLike | None = None
) -> pd.DataFrame:
    """How well labels find the positions whose kind is known, one row a kind (fork, lock).

    labels, truth: [N] label strings; branching: [N], the score behind them (higher = more fork).
    Returns label, truth (positions of the kind), predicted, precision, recall, f1, auc. NaN where
    a ratio has no denominator. auc: the chance that a random position of the kind scores as more
    of that kind than a random other one, ties a half (Mann-Whitney U / n1 n0); it needs no
    threshold. Rows without a branching are left out of the auc.
    Raises UserError when the lengths differ.
    """
    predicted, actual = np.asarray(labels), np.asarray(truth)
    scores = None if branching is None else np.asarray(branching, float)
    if predicted.shape != actual.shape or (scores is not None and scores.shape != actual.shape):
        raise UserError("labels, truth and branching must have one entry for each position")
    rows = []
    for kind, sign in ((FORK, 1), (LOCK, -1)):
        said, true = predicted == kind, actual == kind
        hits = (said & true).sum()
        auc = np.nan if scores is None else _auc(sign * scores, true)
        rows.append(
            {
                "label": kind,
                "truth": true.sum(),
                "predicted": said.sum(),
                "precision": _ratio(hits, said.sum()),
                "recall": _ratio(hits, true.sum()),
                "f1": _ratio(2 * hits, said.sum() + true.sum()),
                "auc": auc,
            }
        )
    return pd.DataFrame(rows)


def agreement(labels: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """How far rules agree on the same positions, one row a pair of them.

        kappa = (a - e) / (1 - e),   a = share of equal labels,   e = sum_l p_first(l) p_second(l)

    labels: by rule, [N] each. Returns first, second, agree (a), kappa (Cohen's: 1 is full
    agreement, 0 that of chance; NaN where both give one and the same label throughout),
    fork_overlap (forks of both over forks of either; NaN without any).
    Raises UserError for fewer than two rules or other lengths.
    """
    arrays = {name: np.asarray(values) for name, values in labels.items()}
    if len(arrays) < 2:
        raise UserError("agreement needs the labels of at least two rules")
    if len({values.shape for values in arrays.values()}) > 1:
        raise UserError("the rules labelled different numbers of positions")
    rows = []
    names = list(arrays)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = arrays[first], arrays[second]
            same = float((a == b).mean())
            chance = sum(float((a == k).mean() * (b == k).mean()) for k in np.unique(a))
            either, both = ((a == FORK) | (b == FORK)).sum(), ((a == FORK) & (b == FORK)).sum()
            kappa = _ratio(same - chance, 1 - chance)
            rows.append((first, second, same, kappa, _ratio(both, either)))
    return pd.DataFrame(rows, columns=["first", "second", "agree", "kappa", "fork_overlap"])


def sensitivity(
    frame: pd.DataFrame,
    rule: Any,
    values: Mapping[str, Sequence[Any]],
    truth: ArrayLike | None = None,
) -> pd.DataFrame:
    """What each parameter of a rule does to its labels, the others held as they are.

    frame: a probe; rule: one of `labels`; values: by parameter of the rule what to try; truth: [N]
    true kinds, if they are known. Returns parameter, value (as text), fork_rate, lock_rate (shares
    of the positions), agree (share labelled as by `rule` itself), and with truth fork_f1, lock_f1.
    Raises UserError for a parameter that the rule lacks, and where the rule refuses a value.
    """
    own = rule.label(frame)
    rows = []
    for parameter, tried in values.items():
        if parameter not in vars(rule):
            known = ", ".join(vars(rule))
            raise UserError(f"{type(rule).__name__} has no {parameter!r}; it has {known}")
        for value in tried:
            labels = replace(rule, **{parameter: value}).label(frame)
            row = {
                "parameter": parameter,
                "value": str(value),
                "fork_rate": (labels == FORK).mean(),
                "lock_rate": (labels == LOCK).mean(),
                "agree": (labels == own).mean(),
            }
            if truth is not None:
                found = score_against_truth(labels, truth).set_index("label")["f1"]
                row |= {"fork_f1": found[FORK], "lock_f1": found[LOCK]}
            rows.append(row)
    return pd.DataFrame(rows)


def score_against_outcomes(
    rules: Mapping[str, Rated],
    outcomes: pd.DataFrame,
    *,
    over: str | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well rules find the positions at which other tokens keep the program passing.

    rules: by name, on the same N positions. outcomes: [N] rows with problem_id, p_fork (posterior
    probability f of an outcome-fork, so that undecided positions count half on either side) and, if
    they were not drawn alike, weight w. Positions without a score or an f are left out, for all
    rules alike. Measures, as expectations over f, with 95 % bootstrap intervals over problems:

        auc             sum_ij a_ij ([s_i > s_j] + [s_i = s_j] / 2) / sum_ij a_ij, with the score s
                        and a_ij = w_i f_i w_j (1 - f_j)
        fork_f1         2 sum w f [said] / (sum w [said] + sum w f), said: labelled fork or open, as
                        an outcome does not tell these two apart
        lock_f1         the same of the locks, with 1 - f
        best_fork_from  the score from which "fork" has the highest F1, best_fork_f1, on these data
        best_lock_to    the score up to which "lock" has it, best_lock_f1

    Uncertain f hold all measures away from 1: a perfect rule reaches what `p_fork` allows. With
    `over`, the name of a rule, each estimate is the rule's less that rule's, resampled in pairs.
    Returns rule, measure (of `MEASURES`), estimate, low, high, positions, problems.
    Raises UserError where lengths differ, a column lacks, f is no probability, or nothing is left.
    """
    require_columns(outcomes, ["problem_id", "p_fork"], "the outcomes")
    if over is not None and over not in rules:
        raise UserError(f"over = {over!r}: the rules are {', '.join(rules)}")
    scores = {name: np.asarray(rule.score, float) for name, rule in rules.items()}
    labels = {name: np.asarray(rule.label) for name, rule in rules.items()}
    f = outcomes["p_fork"].to_numpy(float)
    weight = outcomes["weight"].to_numpy(float) if "weight" in outcomes else np.ones(len(f))
    if any(values.shape != f.shape for values in [*scores.values(), *labels.values()]):
        raise UserError("each rule and the outcomes must have one entry for each position")
    if ((f < 0) | (f > 1)).any() or not (weight >= 0).all():
        raise UserError("the outcomes' p_fork must lie in 0..1, their weight must not be below 0")
    known = np.isfinite([f, *scores.values()]).all(axis=0)
    if not known.any():
        raise UserError("no position has both an outcome and a score")
    codes, problems = pd.factorize(outcomes["problem_id"].to_numpy()[known])
    mass = [weight[known] * part for part in (f[known], 1 - f[known])]
    sums = {
        name: _sums(scores[name][known], labels[name][known], mass, codes, len(problems))
        for name in rules
    }
    rows = []
    for name in [name for name in rules if name != over]:
        pair = [sums[name], *([sums[over]] if over is not None else [])]
        estimate, low, high = _with_interval(pair, len(problems), n_resamples, seed)
        told = zip(MEASURES, estimate, low, high, strict=True)
        rows += [(name, *row, known.sum(), len(problems)) for row in told]
    columns = ["rule", "measure", "estimate", "low", "high", "positions", "problems"]
    return pd.DataFrame(rows, columns=columns)


class _Sums(NamedTuple):
    """Of one rule, by problem [P, ...]: all that `MEASURES` need."""

    values: Floats  # [U], the distinct scores, ascending
    forks: Floats  # [P, U] mass of outcome-forks at each score
    locks: Floats  # [P, U] of outcome-locks
    said: Floats  # [P, 2, 2]: (said fork, said lock) x (fork mass, lock mass)


def _sums(
    score: Floats, label: NDArray, mass: Sequence[Floats], codes: NDArray, problems: int
) -> _Sums:
    values, at = np.unique(score, return_inverse=True)
    by_score = np.zeros((2, problems, len(values)))
    said = np.zeros((problems, 2, 2))
    for kind, part in enumerate(mass):
        np.add.at(by_score[kind], (codes, at), part)
        for i, names in enumerate(((FORK, OPEN), (LOCK,))):
            np.add.at(said[:, i, kind], codes, part * np.isin(label, names))
    return _Sums(values, by_score[0], by_score[1], said)


def _measures(sums: _Sums, counts: Floats) -> Floats:
    """`MEASURES` [M, B] of B resamples, each problem taken `counts` [B, P] times."""
    forks, locks = counts @ sums.forks, counts @ sums.locks  # [B, U]
    fork, lock = forks.sum(-1), locks.sum(-1)  # [B]
    said = np.tensordot(counts, sums.said, 1)  # [B, 2, 2]
    below = np.cumsum(locks, -1) - locks / 2  # locks that score lower, and half of the equal
    from_here = [np.cumsum(part[:, ::-1], -1)[:, ::-1] for part in (forks, locks)]
    up_to = [np.cumsum(part, -1) for part in (forks, locks)]
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (forks * below).sum(-1) / (fork * lock)
        fork_f1 = 2 * said[:, 0, 0] / (said[:, 0].sum(-1) + fork)
        lock_f1 = 2 * said[:, 1, 1] / (said[:, 1].sum(-1) + lock)
        by_fork = 2 * from_here[0] / (from_here[0] + from_here[1] + fork[:, None])
        by_lock = 2 * up_to[1] / (up_to[0] + up_to[1] + lock[:, None])
    best = [x for f1 in (by_fork, by_lock) for x in (sums.values[f1.argmax(-1)], f1.max(-1))]
    return np.stack([auc, fork_f1, lock_f1, *best])


def _with_interval(
    pair: Sequence[_Sums], problems: int, n_resamples: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Measures [M] of the first rule, less the second's if there are two, and their interval."""

    def statistic(counts: Floats) -> Floats:
        first, *second = (_measures(sums, counts) for sums in pair)
        return first - second[0] if second else first

    def resampled(drawn: NDArray, axis: int) -> Floats:
        drawn = np.atleast_2d(np.moveaxis(drawn, axis, -1))
        offsets = problems * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=problems * len(drawn))
        return statistic(counts.reshape(len(drawn), problems).astype(float))

    estimate = statistic(np.ones((1, problems)))[:, 0]
    if problems < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    ends = bootstrap(
        (np.arange(problems),),
        resampled,
        n_resamples=n_resamples,
        batch=max(1, _BATCH_ELEMENTS // max(problems, len(pair[0].values))),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return estimate, ends.low, ends.high


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _auc(scores: NDArray, positive: NDArray) -> float:
    """U / (n1 n0) over the rows that have a score; NaN when one side is empty."""
    known = ~np.isnan(scores)
    ones, zeros = scores[known & positive], scores[known & ~positive]
    if not len(ones) or not len(zeros):
        return float("nan")
    u = mannwhitneyu(ones, zeros, method="asymptotic").statistic
    return float(u / len(ones) / len(zeros))

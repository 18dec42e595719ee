"""How good a rule for forks and locks is: against positions of known kind, other rules, other
parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.errors import UserError


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

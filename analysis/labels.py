"""Locks and forks: which positions are which, by a stated rule, and how well the rule finds them.

A lock is a position whose next token is all but settled; a fork is one where several tokens lead to
different continuations (paper, section 2). The paper gives no thresholds. Its mechanism is the
retained support: what temperature, top-k and top-p leave of the distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

if TYPE_CHECKING:  # figures and pass@k come through here and must not wait for torch
    from ssd_probe.kernels.stats import PositionStats

LOCK = "lock"
FORK = "fork"
NEITHER = "neither"

_SCALARS = ("max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass", "valid")
_RANKED = ("top_ids", "top_logits")


@dataclass(frozen=True)
class SupportRule:
    """Label by the branching of the retained support, `exp(H)` of what `decoding` leaves.

    branching = 1 where one token survives, b where b equal tokens do. A position is a lock when
    branching <= lock_at_most, a fork when branching >= fork_at_least, else neither; so is a row
    that is not valid. The default decoding is the paper's training setting for Qwen3-4B-Instruct
    (Table 3), the one whose truncation the student learns.

    Why branching and not the number of survivors: a support of 20 may be one token and 19 crumbs.
    Why these thresholds: the paper's own toy lock keeps two tokens of 94.8 / 5.2 % (appendix C.4),
    a branching of 1.23, and must be a lock; the most lopsided pair that top-p 0.8 keeps *because
    it needs both* is 80 / 20 %, a branching of 1.65, and must be a fork. Check them against
    positions of known kind with `score_against_truth` before trusting them on another model.

    Raises UserError for greedy decoding (every position would be a lock) and crossed thresholds.
    """

    decoding: Decoding = field(default_factory=lambda: Decoding(1.6, 20, 0.8))
    lock_at_most: float = 1.25
    fork_at_least: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.lock_at_most < self.fork_at_least:
            raise UserError("SupportRule needs 1 <= lock_at_most < fork_at_least")
        if self.decoding.is_greedy:
            raise UserError("SupportRule needs a temperature above 0: greedy makes all a lock")

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """Branching of each position (NaN where not valid): high at forks, 1 at firm locks."""
        stats = stats_of(frame)
        require_exact(stats, self.decoding)
        return pd.Series(stats.branching(self.decoding), index=frame.index, name="branching")

    def label(self, frame: pd.DataFrame) -> pd.Series:
        """`lock`, `fork` or `neither` for each row of a probe frame, on the frame's index."""
        branching = self.score(frame)
        kinds = np.where(
            branching <= self.lock_at_most,
            LOCK,
            np.where(branching >= self.fork_at_least, FORK, NEITHER),
        )
        return pd.Series(kinds, index=frame.index, name="label")


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


def stats_of(frame: pd.DataFrame) -> PositionStats:
    """The `PositionStats` of a probe frame: its columns as arrays, `top_*` stacked to [N, K].

    Raises UserError for a missing column, no rows, or rows with different K.
    """
    from ssd_probe.kernels.stats import PositionStats

    require_columns(frame, [*_SCALARS, *_RANKED], "the probe")
    columns: dict[str, NDArray] = {name: frame[name].to_numpy() for name in _SCALARS}
    columns |= {name: stacked(frame, name) for name in _RANKED}
    return PositionStats.from_columns(columns)


def require_exact(stats: PositionStats, decoding: Decoding) -> None:
    """UserError where the kept ranks cannot tell what `decoding` leaves, at over 1 % of positions.

    A top-k above the probe's K, or none at T != 1, needs the vocabulary; a few ties at the k-th
    logit that may go on beyond rank K are let pass.
    """
    valid = int(stats.valid.sum())
    inexact = valid - int(stats.support_exact(decoding).sum())
    if inexact > 0.01 * valid:
        raise UserError(
            f"{decoding}: its support is not within the probe's {stats.top_ids.shape[1]} ranks at "
            f"{inexact} of {valid} positions: use a smaller top-k, or probe with more ranks"
        )


def stacked(frame: pd.DataFrame, name: str) -> NDArray:
    """A column of K-long rows as one array [N, K]. Raises UserError where K differs."""
    rows = frame[name].tolist()
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"the probe's '{name}' holds rows of different length")
    return np.asarray(rows)  # [N, K]


def require_columns(frame: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """UserError unless `frame` has rows and each of the named columns; `what` says whose."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(f"{what} lacks the columns: {', '.join(missing)}")
    if not len(frame):
        raise UserError(f"{what} holds no rows")


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

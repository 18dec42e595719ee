"""Locks and forks: which positions are which, by a stated rule.

A lock is a position whose next token is all but settled; a fork is one where several tokens lead to
different continuations (paper, section 2). The paper gives no thresholds. Its mechanism is the
retained support: what temperature, top-k and top-p leave of the distribution. How well a rule does
is measured in `scoring`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.frames import require_columns, require_exact, stats_of
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError

LOCK = "lock"
FORK = "fork"
NEITHER = "neither"


class Rule(Protocol):
    """What `label` and `score` mean is the same for every rule; frames are of the base model."""

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """A number for each position, NaN where not valid: high at forks, low at locks."""
        ...

    def label(self, frame: pd.DataFrame) -> pd.Series:
        """`lock`, `fork` or `neither` for each row of a probe frame, on the frame's index."""
        ...


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
    positions of known kind with `scoring.score_against_truth` before trusting them elsewhere.

    Raises UserError for greedy decoding (every position would be a lock) and crossed thresholds.
    """

    decoding: Decoding = PAPER_TRAIN
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
        branching = stats.truncated([self.decoding]).entropy[:, 0].exp()
        return pd.Series(branching, index=frame.index, name="branching")

    def label(self, frame: pd.DataFrame) -> pd.Series:
        """A fork from `fork_at_least` on, a lock up to `lock_at_most`."""
        return _labels(self.score(frame), self.lock_at_most, self.fork_at_least)


@dataclass(frozen=True)
class EntropyRule:
    """Label by the entropy of the whole distribution at T=1, in nats.

    A lock when H(p) <= lock_at_most, a fork when H(p) >= fork_at_least, else neither. It needs no
    decoding, but the tail counts too: a lock with a heavy tail of distractors can reach the entropy
    of a narrow fork, which is what `SupportRule` avoids.

    Why these thresholds: ln 2 = 0.693 is the entropy of two equal tokens, the smallest even fork;
    0.2 is that of two tokens at 95 / 5 %, about the paper's toy lock after truncation (94.8 / 5.2
    %, appendix C.4).

    Raises UserError for thresholds below 0 or crossed.
    """

    lock_at_most: float = 0.2
    fork_at_least: float = float(np.log(2))

    def __post_init__(self) -> None:
        if not 0 <= self.lock_at_most < self.fork_at_least:
            raise UserError("EntropyRule needs 0 <= lock_at_most < fork_at_least")

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """H(p) of each position, nats."""
        return _entropy(frame)

    def label(self, frame: pd.DataFrame) -> pd.Series:
        """A fork from `fork_at_least` on, a lock up to `lock_at_most`."""
        return _labels(self.score(frame), self.lock_at_most, self.fork_at_least)


@dataclass(frozen=True)
class QuantileRule:
    """Label by the rank of the entropy among the positions at hand, whatever its size.

    A fork is one of the `fork_share` positions of highest entropy, a lock one of the `lock_share`
    of lowest (ties at the edge all count). The default 20 % of forks is the share of high-entropy
    "forking tokens" in work on reasoning models (Wang et al. 2025, arXiv 2506.01939). The shares
    are given, not found: half of a text without a single fork has its 20 % of forks too, so labels
    of different texts or models must not be compared. The thresholds of a whole probe, for parts
    of it: `fitted`.

    Raises UserError unless the shares are in 0..1 and leave each other room.
    """

    fork_share: float = 0.2
    lock_share: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.fork_share < 1 and 0 < self.lock_share <= 1 - self.fork_share):
            raise UserError("QuantileRule needs shares in 0..1 of at most 1 in all")

    def fitted(self, entropies: Iterable[NDArray]) -> EntropyRule:
        """The rule with its quantiles taken over all of these entropies, part by part.

        Errors: `UserError` without a single number, or where both quantiles are equal.
        """
        parts = [np.asarray(part, np.float32) for part in entropies]
        known = np.concatenate([np.empty(0), *(part[np.isfinite(part)] for part in parts)])
        if not len(known):
            raise UserError("QuantileRule: no position has an entropy")
        low = np.quantile(known, self.lock_share, method="lower")
        high = np.quantile(known, 1 - self.fork_share, method="higher")
        if not low < high:
            raise UserError(
                f"QuantileRule: the quantiles {self.lock_share:g} and {1 - self.fork_share:g} of "
                f"the entropy are both {high:g}: give smaller shares, or use SupportRule"
            )
        return EntropyRule(float(low), float(high))

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """H(p) of each position, nats."""
        return _entropy(frame)

    def label(self, frame: pd.DataFrame) -> pd.Series:
        """Labels by the quantiles of this frame."""
        return self.fitted([self.score(frame).to_numpy()]).label(frame)


def _entropy(frame: pd.DataFrame) -> pd.Series:
    require_columns(frame, ["entropy", "valid"], "the probe")
    return frame["entropy"].astype(float).where(frame["valid"].astype(bool))


def _labels(score: pd.Series, lock_at_most: float, fork_at_least: float) -> pd.Series:
    """NaN is neither."""
    kinds = np.where(score <= lock_at_most, LOCK, np.where(score >= fork_at_least, FORK, NEITHER))
    return pd.Series(kinds, index=score.index, name="label")

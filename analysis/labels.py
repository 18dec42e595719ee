"""Locks, forks and open positions: which positions are which, by a stated rule.

A lock is a position whose next token is all but settled; a fork is one where several tokens lead to
different continuations (paper, section 2). The paper gives no thresholds. Its mechanism is the
retained support: what temperature, top-k and top-p leave of the distribution. On real text there is
a third kind, which the paper does not name: a position is *open* where many tokens share the mass
and none of them stands out, as for the next word of a docstring. Its support is whatever top-k
left. How well a rule does is measured in `scoring`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.frames import require_columns, require_exact, stats_of
from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.errors import UserError

if TYPE_CHECKING:  # pass@k comes through here and must not wait for torch
    from ssd_probe.kernels.results import PositionStats

LOCK = "lock"
FORK = "fork"
OPEN = "open"
NEITHER = "neither"
KINDS = (LOCK, FORK, OPEN, NEITHER)  # in the order in which they are told
# In figures and notebooks; the viewer has the same on light ground (views/web/viewer.css).
COLORS = {LOCK: "#BFE3D0", FORK: "#E58FB1", OPEN: "#9FB4CE"}


class Rule(Protocol):
    """What `label` and `score` mean is the same for every rule; frames are of the base model."""

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """A number for each position, NaN where not valid: high at forks, low at locks."""
        ...

    def label(self, frame: pd.DataFrame, stats: PositionStats | None = None) -> pd.Series:
        """One of `KINDS` for each row of a probe frame, on the frame's index; stats: its own."""
        ...


@dataclass(frozen=True)
class SupportRule:
    """Label by the branching of the retained support, `exp(H)` of what `decoding` leaves.

        open      C = sum of p(v) over the `head_tokens` likeliest v < head_mass        (T=1)
        lock      else, branching <= lock_at_most
        fork      else, branching >= fork_at_least
        neither   else, and every row that is not valid

    branching = 1 where one token survives, b where b equal tokens do. C asks for a head: at a fork
    a few tokens hold most of the mass, at an open position they do not, and then the support is
    what top-k happened to leave. C is taken before any truncation, so no decoding hides a flat
    distribution.

    Why branching and not the number of survivors: a support of 20 may be one token and 19 crumbs.
    Why these thresholds: the paper's own toy lock keeps two tokens of 94.8 / 5.2 % (appendix C.4),
    a branching of 1.23, and must be a lock; the most lopsided pair that top-p 0.8 keeps *because
    it needs both* is 80 / 20 %, a branching of 1.65, and must be a fork. The head is a choice, not
    a measurement: half of the mass on no more tokens than a typical fork has.

    Validated on the bundled domain's true labels (F1 1.00). Not on a language model: against
    forced tokens in SmolLM2's own passing programs (501 positions, three runs a token) its AUC is
    0.52 [0.48, 0.55], not told from chance. Eleven other settings were tried on the same data: the
    largest gains of AUC are 0.01, too small to choose by after so many looks.

    Raises UserError for greedy decoding (every position would be a lock), crossed thresholds, a
    head that is no share or no token; `label` also where the probe keeps fewer ranks than the head.
    """

    decoding: Decoding = LABELLING
    lock_at_most: float = 1.25
    fork_at_least: float = 1.5
    head_tokens: int = 6
    head_mass: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.lock_at_most < self.fork_at_least:
            raise UserError("SupportRule needs 1 <= lock_at_most < fork_at_least")
        if self.decoding.is_greedy:
            raise UserError("SupportRule needs a temperature above 0: greedy makes all a lock")
        if self.head_tokens < 1 or not 0 <= self.head_mass <= 1:
            raise UserError("SupportRule needs head_tokens >= 1 and a head_mass in 0..1")

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """Branching of each position (NaN where not valid): high at forks, 1 at firm locks."""
        stats = stats_of(frame)
        require_exact(stats, self.decoding)
        return pd.Series(self._branching(stats), index=frame.index, name="branching")

    def label(self, frame: pd.DataFrame, stats: PositionStats | None = None) -> pd.Series:
        """Open without a head; else a fork from `fork_at_least` on, a lock up to `lock_at_most`."""
        stats = stats_of(frame) if stats is None else stats
        require_exact(stats, self.decoding)
        return pd.Series(self.kinds(stats), index=frame.index, name="label")

    def kinds(self, stats: PositionStats) -> NDArray:
        """The labels [N] of these positions, also where a tie goes on beyond rank K."""
        kinds = _kinds(self._branching(stats), self.lock_at_most, self.fork_at_least)
        return np.where(self._headless(stats), OPEN, kinds)

    def _branching(self, stats: PositionStats) -> NDArray:
        return stats.truncated([self.decoding]).entropy[:, 0].exp().numpy(force=True)

    def _headless(self, stats: PositionStats) -> NDArray[np.bool_]:
        """C < head_mass; False where not valid."""
        ranks = min(self.head_tokens, stats.top_ids.shape[1])
        beyond = stats.tail_probability(ranks).numpy(force=True)  # 1 - C, never a difference
        headless = beyond > 1 - self.head_mass
        if ranks < self.head_tokens and headless.any():
            raise UserError(
                f"SupportRule needs the {self.head_tokens} likeliest tokens, and the probe keeps "
                f"{ranks} ranks: probe with more, or give a smaller head_tokens"
            )
        return headless


@dataclass(frozen=True)
class EntropyRule:
    """Label by the entropy of the whole distribution at T=1, in nats.

    Open when H(p) > open_above, else a fork when H(p) >= fork_at_least, a lock when H(p) <=
    lock_at_most, else neither. It needs no decoding, but the tail counts too: a lock with a heavy
    tail of distractors can reach the entropy of a narrow fork, which is what `SupportRule` avoids.

    Why these thresholds: ln 2 = 0.693 is the entropy of two equal tokens, the smallest even fork;
    0.2 is that of two tokens at 95 / 5 %, about the paper's toy lock after truncation (94.8 / 5.2
    %, appendix C.4). ln 12 = 2.48 is that of 12 equal tokens, the flattest even distribution of
    which six hold half: `SupportRule`'s limit of a head. Validated on the bundled domain (fork F1
    0.73, lock F1 1.00); on SmolLM2 as `SupportRule`, AUC 0.49 [0.44, 0.54], is at chance.

    Raises UserError for thresholds below 0 or crossed.
    """

    lock_at_most: float = 0.2
    fork_at_least: float = float(np.log(2))
    open_above: float = float(np.log(12))

    def __post_init__(self) -> None:
        if not 0 <= self.lock_at_most < self.fork_at_least <= self.open_above:
            raise UserError("EntropyRule needs 0 <= lock_at_most < fork_at_least <= open_above")

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """H(p) of each position, nats."""
        return _entropy(frame)

    def label(self, frame: pd.DataFrame, stats: PositionStats | None = None) -> pd.Series:
        """Open above `open_above`, a fork from `fork_at_least` on, a lock up to `lock_at_most`."""
        entropy = self.score(frame)
        labels = _labels(entropy, self.lock_at_most, self.fork_at_least)
        return labels.mask(entropy > self.open_above, OPEN)


@dataclass(frozen=True)
class QuantileRule:
    """Label by the rank of the entropy among the positions at hand, whatever its size.

    A fork is one of the `fork_share` positions of highest entropy, a lock one of the `lock_share`
    of lowest (ties at the edge all count). The default 20 % of forks is the share of high-entropy
    "forking tokens" in work on reasoning models (Wang et al. 2025, arXiv 2506.01939). The shares
    are given, not found: half of a text without a single fork has its 20 % of forks too, so labels
    of different texts or models must not be compared. The thresholds of a whole probe, for parts
    of it: `fitted`. It has no open positions: a share of the highest entropies says nothing of
    whether they have a head, so its forks are the flat positions too. Validated on the bundled
    domain (fork F1 0.78, lock F1 0.73); its score, and so its AUC, is `EntropyRule`'s.

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
        return EntropyRule(float(low), float(high), open_above=float("inf"))

    def score(self, frame: pd.DataFrame) -> pd.Series:
        """H(p) of each position, nats."""
        return _entropy(frame)

    def label(self, frame: pd.DataFrame, stats: PositionStats | None = None) -> pd.Series:
        """Labels by the quantiles of this frame."""
        return self.fitted([self.score(frame).to_numpy()]).label(frame)


def _entropy(frame: pd.DataFrame) -> pd.Series:
    require_columns(frame, ["entropy", "valid"], "the probe")
    return frame["entropy"].astype(float).where(frame["valid"].astype(bool))


def _labels(score: pd.Series, lock_at_most: float, fork_at_least: float) -> pd.Series:
    kinds = _kinds(score.to_numpy(), lock_at_most, fork_at_least)
    return pd.Series(kinds, index=score.index, name="label")


def _kinds(score: NDArray, lock_at_most: float, fork_at_least: float) -> NDArray:
    """NaN is neither."""
    return np.where(score <= lock_at_most, LOCK, np.where(score >= fork_at_least, FORK, NEITHER))

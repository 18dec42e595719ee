"""Which T_eval, and which top-p, serve locks and forks at once: a model's room, in numbers.

The precision-exploration conflict (paper, section 2) for whole populations of locks and forks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_probe.analysis.prediction.ideal import Ranks, draws
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.supports.many_decodings import Truncated

RESOLUTION = 1e-3  # of T_low and T_high


@dataclass(frozen=True)
class Limits:
    """When a T_eval serves both kinds of position: locks stay precise and forks stay open.

    A lock is precise where its top token is drawn with at least `lock_mass`; a fork is open where
    the branching of what is drawn is at least `fork_branching`. T_eval serves when at least
    `lock_share` of the locks are precise and `fork_share` of the forks open. Shares and not means:
    a program passes many locks and a few loose ones fail it, which a mean would hide; of the forks
    the typical one must explore. fork_tokens (r_F) and lock_tokens (r_L) are eq. 40's, with the
    same shares. Raises UserError for a value out of range.
    """

    lock_mass: float = 0.99
    lock_share: float = 0.99
    fork_branching: float = 1.5
    fork_share: float = 0.5
    fork_tokens: int = 2
    lock_tokens: int = 1

    def __post_init__(self) -> None:
        for name in ("lock_mass", "lock_share", "fork_share"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name)!r}: must be in (0, 1]")
        for name in ("fork_branching", "fork_tokens", "lock_tokens"):
            if not 1 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} = {getattr(self, name)!r}: must be at least 1")

    def __str__(self) -> str:
        """What is asked, in words."""
        return (
            f"T_eval serves where {100 * self.lock_share:g} % of locks give their top token "
            f"{self.lock_mass:g} or more, and {100 * self.fork_share:g} % of forks branch "
            f"{self.fork_branching:g} or more"
        )

    def precise(self, drawn: Truncated) -> NDArray[np.bool_]:
        """Whether the top token has its mass, [n, D]."""
        return drawn.top1.numpy() >= self.lock_mass

    def open(self, drawn: Truncated) -> NDArray[np.bool_]:
        """Whether what is drawn branches enough, [n, D]."""
        return drawn.entropy.exp().numpy() >= self.fork_branching * (1 - 1e-12)


class Interval(NamedTuple):
    """The room that T_eval and top-p have; NaN where there is none."""

    T_low: float  # the least T_eval at which the forks are open
    T_high: float  # the largest T_eval at which the locks are precise
    feasible: bool  # T_low <= T_high
    reach: float  # mean branching of the forks at T_high
    top_p_low: float  # eq. 40 at T_high: low < top-p <= high
    top_p_high: float


def interval(
    locks: Ranks, forks: Ranks, truncation: Decoding, span: tuple[float, float], limits: Limits
) -> Interval:
    """The T_eval within `span` that serve both at the top-k and top-p of `truncation`.

    The bounds are those of `Limits`, to 0.001: found by bisection, as with rising T the top token's
    mass only falls and branching only grows, also where the nucleus takes in a token. A bound at an
    end of the span may lie beyond it.
    """

    def serves(ranks: Ranks, rule: Callable, share: float) -> Callable[[float], bool]:
        def at(temperature: float) -> bool:
            drawn = draws(ranks, [replace(truncation, temperature=temperature)])
            return rule(drawn).mean() >= share - 1e-12

        return at

    low, high = span
    hottest = _last(serves(locks, limits.precise, limits.lock_share), low, high)
    coolest = _last(serves(forks, limits.open, limits.fork_share), high, low)
    if np.isnan(hottest):
        return Interval(coolest, hottest, False, np.nan, np.nan, np.nan)
    at = replace(truncation, temperature=hottest)
    reach = draws(forks, [at]).entropy.exp().mean().item()
    top_p = feasible_top_p(locks, forks, at, limits)
    return Interval(coolest, hottest, bool(coolest <= hottest), reach, *top_p)


def feasible_top_p(
    locks: Ranks, forks: Ranks, decoding: Decoding, limits: Limits
) -> tuple[float, float]:
    """Eq. 40 at the T and top-k of `decoding`: low < top_p <= high; NaN twice where none does.

    low is the `fork_share` quantile of C_{r_F - 1} over the forks: so many of them keep r_F ranks.
    high is the top-p up to which `lock_share` of the locks keep no more than r_L.
    """
    served = rank_mass(forks, decoding, limits.fork_tokens - 1)
    kept = rank_mass(locks, decoding, limits.lock_tokens)
    low = float(np.quantile(served, limits.fork_share, method="inverted_cdf"))
    high = -float(np.quantile(-kept, limits.lock_share, method="inverted_cdf"))
    return (low, high) if low < high else (np.nan, np.nan)


def rank_mass(ranks: Ranks, decoding: Decoding, rank: int) -> NDArray[np.float64]:
    """C_m, the mass of the first m ranks before top-p, [n]: 1 from the last survivor on.

    Before it a C that only rounds to 1 is put just below, as `explain.feasible_top_p` does.
    Source: eq. 40.
    """
    whole = draws(ranks, [Decoding(decoding.temperature, decoding.top_k)])
    first = ranks.logits[:, :rank].double()
    below = (first - ranks.logits[:, :1].double()) / (ranks.temperature * decoding.temperature)
    mass = (below.exp() * whole.top1).sum(1).numpy()
    return np.where(whole.size[:, 0].numpy() <= rank, 1.0, np.minimum(mass, np.nextafter(1, 0)))


def _last(holds: Callable[[float], bool], near: float, far: float) -> float:
    """The last T from `near` on towards `far` at which `holds`; NaN when not at `near`."""
    if not holds(near):
        return np.nan
    if holds(far):
        return far
    while abs(far - near) > RESOLUTION:
        middle = (near + far) / 2
        near, far = (middle, far) if holds(middle) else (near, middle)
    return near

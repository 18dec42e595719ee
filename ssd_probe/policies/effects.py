"""What policies do at locks and at forks, from a base's kept ranks: rivals beside ideal students.

The ideal student is `TwoStage` (Prop. B.2), so that one computation serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.leverage import LEAST_SLIP, REFERENCE
from ssd_probe.analysis.prediction.feasible import RESOLUTION
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.supports.rules import TopNSigma
from ssd_probe.policies.ranks import log_drawn, on_ranks
from ssd_probe.policies.rivals import AdapT, Cut

At = Callable[[float], Policy]  # a policy by its temperature
STATISTICS = ("size", "kept_mass", "slip", "tail", "head_entropy", "entropy", "branching", "exact")
_OF_FORKS = ("head_entropy", "entropy", "branching")
_LEVEL = ("kept_mass", "slip", "lock_tail", *_OF_FORKS, "fork_tail", "exact")
_ROWS = 65_536  # positions at once, where float64 [n, K] is needed
_UNKNOWN = 0.01  # share of positions


class Effects(NamedTuple):
    """Policies side by side, at every temperature and where they cost the locks the same."""

    cells: pd.DataFrame  # policy, temperature, label, positions, and means of `STATISTICS`
    level: (
        pd.DataFrame
    )  # policy, temperature, end, and `_level`'s means, by head_entropy, most first
    slip: float  # allowed at locks
    inside: Decoding  # of S, which tells head from tail
    ranks: int  # K

    def curves(self) -> pd.DataFrame:
        """What a figure shows: policy, temperature; slip at locks; head_entropy, tail at forks."""
        keys = ["policy", "temperature"]
        lock, fork = (self.cells[self.cells["label"] == label] for label in (LOCK, FORK))
        return lock[[*keys, "slip"]].merge(fork[[*keys, "head_entropy", "tail"]], on=keys)


def compare_policies(
    stats: Mapping[str, PositionStats],
    policies: Mapping[str, At],
    base: At,
    temperatures: Sequence[float],
    inside: Decoding,
) -> Effects:
    """What each policy draws at the base's locks and forks.

    stats: by label; inside: its support S tells head from tail. A row's q is what is drawn from:

        slip = q(all but the likeliest token),  tail = q(not S),  head_entropy = H(q(.|S))
        entropy = H(q),  branching = e^H(q),  kept_mass = p(kept) at T=1,  size = tokens kept

    exact: the share of positions at which the K ranks say all that is kept; at the others what is
    kept among them counts. level: at the highest T up to which the mean slip at locks is at most
    `base`'s at T = 1, or 0.001; `end`: that is the highest tried; NaN where the lowest is too hot.
    Entropies in nats. Errors: `UserError` for a policy that `untold` names.
    Source: paper, section 2; the price is that of `analysis.leverage`.
    """
    for name, at in policies.items():
        if reason := untold(at(1.0), stats.values()):
            raise UserError(f"{name}: {reason}")
    grid = sorted(temperatures)
    price = max(_means(stats[LOCK], base(REFERENCE), inside)["slip"], LEAST_SLIP)
    cells, level = [], []
    for name, at in policies.items():
        found = [(t, label, _means(stats[label], at(t), inside))
                 for t in grid for label in (LOCK, FORK)]  # fmt: skip
        cells += [
            {"policy": name, "temperature": t, "label": label, "positions": len(stats[label])} | row
            for t, label, row in found
        ]
        slips = [row["slip"] for _, label, row in found if label == LOCK]
        t, end = _highest(grid, slips, lambda t, at=at: _means(stats[LOCK], at(t), inside), price)
        level.append({"policy": name, "temperature": t, "end": end, **_level(stats, at, t, inside)})
    order = pd.DataFrame(level).sort_values("head_entropy", ascending=False, kind="stable")
    ranks = stats[LOCK].top_logits.shape[1]
    return Effects(pd.DataFrame(cells), order.reset_index(drop=True), price, inside, ranks)


def untold(policy: Policy, parts: Iterable[PositionStats]) -> str | None:
    """Why the K ranks cannot say what a policy draws; None where they can."""
    if isinstance(policy, AdapT):
        return "ranks do not say where a line begins; the text does"
    if isinstance(policy, Cut) and isinstance(policy.rule, TopNSigma):
        exact = torch.cat([on_ranks(policy, part).exact for part in parts])
        if (~exact).double().mean() > _UNKNOWN:
            return "the standard deviation of all logits is not known from the ranks"
    return None


def _means(stats: PositionStats, policy: Policy, inside: Decoding) -> dict[str, float]:
    """Means of `STATISTICS` over the positions."""
    parts = [_rows(stats.rows(some), policy, inside)
             for some in torch.arange(len(stats)).split(_ROWS)]  # fmt: skip
    columns = zip(*parts, strict=True)
    means = (torch.cat(column).double().nanmean().item() for column in columns)
    return dict(zip(STATISTICS, means, strict=True))


def _rows(stats: PositionStats, policy: Policy, inside: Decoding) -> tuple[torch.Tensor, ...]:
    ranked = on_ranks(policy, stats)
    log_q = log_drawn(stats, ranked)
    head, q = stats.support(inside), log_q.exp()
    entropy = _entropy(log_q)
    return (
        ranked.kept.sum(-1),
        stats.top_probs().where(ranked.kept, 0).sum(-1).clamp(max=1),
        q[:, 1:].sum(-1),
        q.where(~head, 0).sum(-1),
        _entropy(log_q.masked_fill(~head, -torch.inf).log_softmax(-1)),
        entropy,
        entropy.exp(),
        ranked.exact,
    )


def _entropy(log_q: torch.Tensor) -> torch.Tensor:
    """H [N] of rows of log q; NaN where nothing is kept."""
    terms = (log_q.exp() * log_q).where(log_q != -torch.inf, 0)
    return (-terms.sum(-1)).clamp(min=0)


def _highest(
    grid: Sequence[float], slips: Sequence[float], at: Callable, price: float
) -> tuple[float, bool]:
    """The highest T up to which the slip is within the price, to 0.001; whether it is the last."""
    over = np.flatnonzero(np.array(slips) > price * (1 + 1e-9))
    if not len(over):
        return grid[-1], True
    if over[0] == 0:
        return np.nan, False
    low, high = grid[over[0] - 1], grid[over[0]]
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)["slip"] > price * (1 + 1e-9) else (middle, high)
    return low, False


def _level(
    stats: Mapping[str, PositionStats], at: At, temperature: float, inside: Decoding
) -> dict[str, float]:
    """At locks kept_mass, slip, lock_tail; at forks entropies, branching, fork_tail; exact."""
    if np.isnan(temperature):
        return dict.fromkeys(_LEVEL, np.nan)
    lock, fork = (_means(stats[label], at(temperature), inside) for label in (LOCK, FORK))
    n, m = len(stats[LOCK]), len(stats[FORK])
    exact = (n * lock["exact"] + m * fork["exact"]) / (n + m)
    found = {**lock, **{name: fork[name] for name in _OF_FORKS}, "exact": exact}
    found |= {"lock_tail": lock["tail"], "fork_tail": fork["tail"]}
    return {name: found[name] for name in _LEVEL}

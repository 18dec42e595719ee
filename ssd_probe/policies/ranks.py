"""What policies leave of many positions, as far as the K ranks of `PositionStats` say it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_probe.decoding import Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.supports.rules import among_ranks, row_of
from ssd_probe.policies.rivals import AdapT, ByLabel, Cut, Edt, TwoStage, temperature_of, tempered


class Drawn(NamedTuple):
    """Of N positions under P policies, [N, P]. Rows that are not valid: 0 and NaN, not exact.

    Where not `exact`, the numbers are of what is kept among the K ranks.
    """

    size: Tensor  # survivors, int64
    mass: Tensor  # KeptMass: of p at T=1, float64
    entropy: Tensor  # of what is drawn from, nats, float64; branching is its exp
    exact: Tensor  # bool: nothing beyond rank K can be drawn, and all that is needed is known


class Ranked(NamedTuple):
    """One policy on N positions: survivors among the ranks, what z is divided by, and whether
    that is all."""

    kept: Tensor  # bool [N, K]
    temperature: Tensor  # float64 [N]
    exact: Tensor  # bool [N]


def drawn(stats: PositionStats, policies: Sequence[Policy]) -> Drawn:
    """Size, KeptMass and entropy of the support of each policy at each position.

    Errors: `UserError` for a policy that reads the text (AdapT): ranks do not say it.
    """
    columns = [_numbers(stats, on_ranks(policy, stats)) for policy in policies]
    return Drawn(*(torch.stack(column, -1) for column in zip(*columns, strict=True)))


def log_drawn(stats: PositionStats, ranked: Ranked) -> Tensor:
    """log q of the ranks [N, K], float64: what is drawn from, -inf where nothing is kept."""
    kept = ranked.kept & stats.valid[:, None]
    below = stats.top_logits.double() - stats.max_logit.double()[:, None]
    return (below / ranked.temperature[:, None]).masked_fill(~kept, -torch.inf).log_softmax(-1)


def _numbers(stats: PositionStats, ranked: Ranked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = ranked.kept & stats.valid[:, None]
    log_q = log_drawn(stats, ranked)
    entropy = -(log_q.exp() * log_q).where(kept, 0).sum(-1)
    mass = stats.top_probs().where(kept, 0).sum(-1).clamp(max=1)
    bad = ~stats.valid
    numbers = (mass.masked_fill(bad, torch.nan), entropy.clamp(min=0).masked_fill(bad, torch.nan))
    return kept.sum(-1), *numbers, ranked.exact & stats.valid


@singledispatch
def on_ranks(policy: Policy, stats: PositionStats) -> Ranked:
    """Which ranks a policy keeps."""
    raise UserError(f"{policy}: the ranks do not say what it keeps")


@on_ranks.register
def _(policy: Decoding, stats: PositionStats) -> Ranked:
    temperature = torch.full_like(stats.logsumexp, temperature_of(policy))
    return Ranked(stats.support(policy), temperature, stats.support_exact(policy))


@on_ranks.register
def _(policy: TwoStage, stats: PositionStats) -> Ranked:
    if not policy.train.truncates:
        return on_ranks(policy.second, stats)
    first = on_ranks(policy.train, stats)
    inside = stats.top_logits.masked_fill(~first.kept, -torch.inf)
    temperature = torch.full_like(first.temperature, temperature_of(policy.second))
    return Ranked(policy.second.kept(inside), temperature, first.exact)


@on_ranks.register
def _(policy: Cut, stats: PositionStats) -> Ranked:
    decoding, temperature = policy.decoding, temperature_of(policy.decoding)
    first = on_ranks(decoding, stats)
    if not decoding.truncates:
        kept, exact = among_ranks(stats, policy.rule, temperature)
        return Ranked(kept, first.temperature, exact)
    z = tempered(stats.top_logits.masked_fill(~first.kept, -torch.inf), temperature)
    return Ranked(policy.rule.keeps(z, row_of(z)), first.temperature, first.exact)


@on_ranks.register
def _(policy: Edt, stats: PositionStats) -> Ranked:
    z = policy.tempered(stats.top_logits, stats.entropy)
    exact = stats.tail_log_mass == -torch.inf
    if policy.decoding.top_k:
        exact = stats.support_exact(policy.truncation)
    temperature = policy.temperature(stats.entropy).clamp(min=1e-300)
    return Ranked(policy.truncation.kept(z), temperature, exact)


@on_ranks.register
def _(policy: ByLabel, stats: PositionStats) -> Ranked:
    from ssd_probe.analysis.labels import SupportRule

    rule = SupportRule()
    kinds = rule.kinds(stats)
    found = {kind: on_ranks(each, stats) for kind, each in policy.by_label.items()}
    first = next(iter(found.values()))
    kept, temperature, exact = (column.clone() for column in first)
    for kind, ranked in found.items():
        here = torch.from_numpy(kinds == kind)
        kept[here], temperature[here] = ranked.kept[here], ranked.temperature[here]
        exact[here] = ranked.exact[here]
    return Ranked(kept, temperature, exact & stats.support_exact(rule.decoding))


@on_ranks.register
def _(policy: AdapT, stats: PositionStats) -> Ranked:
    raise UserError(f"{policy.text}: ranks do not say where a line begins; the text does")

"""Which tokens other samplers' rules keep: nucleus beyond rank K, min-p, epsilon, eta, typical,
top-n-sigma, top-H; from the logits, or as far as the K ranks of `PositionStats` say it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import check_logits

CHUNK_ELEMENTS = 2**20  # logits in float64 at a time


class Kept(NamedTuple):
    """Of N positions under R rules, [N, R]: survivors, their mass, and whether that is exact.

    Rows that are not valid have 0 survivors, NaN mass and are not exact.
    """

    size: Tensor  # int64
    mass: Tensor  # float64
    exact: Tensor  # bool; a lower bound of both where not


class Row(NamedTuple):
    """What thresholds are made of, [n, 1] each, float64."""

    top: Tensor  # largest logit
    logsumexp: Tensor
    entropy: Tensor
    std: Tensor  # of the finite logits, by n - 1; NaN where only ranks are known


class Rule:
    """A token stays if its logit reaches a threshold of its row; the likeliest always stays."""

    def threshold(self, row: Row) -> Tensor:
        """The lowest logit that stays, [n, 1]."""
        raise NotImplementedError

    def keeps(self, z: Tensor, row: Row) -> Tensor:
        """Which of the logits [n, V] stay, bool."""
        return (z >= torch.minimum(self.threshold(row), row.top)) & (z > -torch.inf)

    def decided(self, stats: PositionStats, z: Tensor, row: Row, temperature: float) -> Tensor:
        """Whether nothing beyond the ranks, of tempered logits z [n, K], can stay, bool [n, 1]."""
        return z[:, -1:] < torch.minimum(self.threshold(row), row.top)


@dataclasses.dataclass(frozen=True)
class AtLeast(Rule):
    """Tokens of p >= `epsilon`: as transformers' EpsilonLogitsWarper; how many are that likely.

        z >= logsumexp(z) + log epsilon

    Source: arXiv 2210.15191.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check("epsilon", self.epsilon, 1)

    def threshold(self, row: Row) -> Tensor:
        return row.logsumexp + math.log(self.epsilon)


@dataclasses.dataclass(frozen=True)
class MinP(Rule):
    """p >= `min_p` max p, as MinPLogitsWarper:  z >= max z + log min_p.

    Source: arXiv 2407.01082.
    """

    min_p: float

    def __post_init__(self) -> None:
        _check("min_p", self.min_p, 1)

    def threshold(self, row: Row) -> Tensor:
        return row.top + math.log(self.min_p)


@dataclasses.dataclass(frozen=True)
class Eta(Rule):
    """p >= min(`epsilon`, sqrt(epsilon) e^-H), as EtaLogitsWarper. Source: arXiv 2210.15191."""

    epsilon: float

    def __post_init__(self) -> None:
        _check("epsilon", self.epsilon, 1)

    def threshold(self, row: Row) -> Tensor:
        log = math.log(self.epsilon)
        return row.logsumexp + (log / 2 - row.entropy).clamp(max=log)


@dataclasses.dataclass(frozen=True)
class TopNSigma(Rule):
    """z >= max z - `n` std(z) over the finite logits (n - 1 below). Source: arXiv 2411.07641.

    No rank says it: exact from logits alone.
    """

    n: float

    def __post_init__(self) -> None:
        _check("n", self.n, math.inf)

    def threshold(self, row: Row) -> Tensor:
        return row.top - self.n * row.std.nan_to_num(nan=torch.inf)


@dataclasses.dataclass(frozen=True)
class Nucleus(Rule):
    """The smallest prefix by (z descending, id ascending) of mass >= `top_p`: `Decoding`'s, at T=1.

    Unlike `PositionStats.support`, exact from logits however many tokens that are.
    """

    top_p: float

    def __post_init__(self) -> None:
        _check("top_p", self.top_p, 1)

    def keeps(self, z: Tensor, row: Row) -> Tensor:
        ranked, order = z.sort(dim=-1, descending=True, stable=True)
        decoding = Decoding(top_p=self.top_p)
        stays = decoding.kept(ranked.float(), row.logsumexp[:, 0])  # they were no more
        return torch.zeros_like(stays).scatter_(-1, order, stays)

    def decided(self, stats: PositionStats, z: Tensor, row: Row, temperature: float) -> Tensor:
        return stats.support_exact(Decoding(temperature, top_p=self.top_p))[:, None]


@dataclasses.dataclass(frozen=True)
class Typical(Rule):
    """The tokens of -log p nearest to H until their mass reaches `mass`, as TypicalLogitsWarper.

    Ties at the edge stay, all of them. Source: arXiv 2202.00666. No rank says it: the nearest may
    lie beyond.
    """

    mass: float

    def __post_init__(self) -> None:
        _check("mass", self.mass, 1)

    def keeps(self, z: Tensor, row: Row) -> Tensor:
        log_p = z - row.logsumexp
        distance = (log_p + row.entropy).abs()
        ordered, order = distance.sort(dim=-1, stable=True)
        mass = log_p.exp().gather(-1, order).cumsum(-1)
        edge = (mass < self.mass).sum(-1, keepdim=True).clamp(max=z.shape[-1] - 1)
        return (distance <= ordered.gather(-1, edge)) & (z > -torch.inf)

    def decided(self, stats: PositionStats, z: Tensor, row: Row, temperature: float) -> Tensor:
        return torch.zeros_like(row.top, dtype=torch.bool)


@dataclasses.dataclass(frozen=True)
class TopH(Rule):
    """The longest prefix by (z descending, id ascending) that spends `top_h` of the entropy.

        rank r stays  <=>  sum_{i<=r} -p_i log p_i <= top_h H(p);  the first always does

    As the authors' code, and as TopHLogitsWarper, but that p is not renormalised over the 100
    likeliest. Source: arXiv 2509.02510; 0.4 is the default of the authors' code.
    """

    top_h: float = 0.4

    def __post_init__(self) -> None:
        _check("top_h", self.top_h, 1)

    def keeps(self, z: Tensor, row: Row) -> Tensor:
        ranked, order = z.sort(dim=-1, descending=True, stable=True)
        stays = self._left(ranked, row) >= -1e-12 * row.entropy
        stays &= ranked - row.logsumexp > -700  # what spends nothing
        stays[:, 0] = True
        return torch.zeros_like(stays).scatter_(-1, order, stays) & (z > -torch.inf)

    def decided(self, stats: PositionStats, z: Tensor, row: Row, temperature: float) -> Tensor:
        left = self._left(z, row)
        # Float32 fields tell 1e-5 nats.
        return (left[:, -1:] < 0) & (left.abs() > 1e-5).all(-1, keepdim=True)

    def _left(self, ranked: Tensor, row: Row) -> Tensor:
        """What each rank leaves of the entropy that may be spent, nats."""
        log_p = ranked - row.logsumexp
        terms = (log_p.exp() * log_p).where(ranked > -torch.inf, 0)
        return self.top_h * row.entropy + terms.cumsum(-1)


def by_logits(logits: Tensor, rules: Sequence[Rule], vocab_size: int | None = None) -> Kept:
    """What each rule keeps of `logits` [..., V], exactly, in float64; rows in chunks.

    `logits` as they are drawn from: divide by the temperature before. Always `exact`, but for rows
    that are not valid (NaN, +inf or all -inf). Errors: `UserError` as of `position_stats`.
    """
    check_logits("logits", logits)
    z = logits.reshape(-1, logits.shape[-1])[:, :vocab_size]
    rows = max(1, CHUNK_ELEMENTS // z.shape[1])
    with torch.no_grad():
        starts = range(0, max(len(z), 1), rows)
        parts = [_kept(z[i : i + rows].double(), rules) for i in starts]
    return Kept(*(torch.cat(column) for column in zip(*parts, strict=True)))


def by_ranks(stats: PositionStats, rules: Sequence[Rule]) -> Kept:
    """What each rule keeps among the K ranks, and whether that is all it keeps.

    Exact where nothing lies beyond rank K, or what does cannot stay. Works on a saved table.
    """
    p = (stats.top_logits.double() - stats.logsumexp[:, None]).exp()
    found = [among_ranks(stats, rule) for rule in rules]
    size = torch.stack([keeps.sum(-1) for keeps, _ in found], -1)
    mass = torch.stack([(p * keeps).sum(-1) for keeps, _ in found], -1).clamp(max=1)
    exact = torch.stack([exact for _, exact in found], -1)
    return Kept(size, mass.masked_fill(~stats.valid[:, None], torch.nan), exact)


def among_ranks(
    stats: PositionStats, rule: Rule, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Which of the K ranks a rule keeps of softmax(z / T), bool [N, K], and where that is all, [N].

    The logsumexp at T != 1 is known where `log_partition_at` has it, the entropy is not: a rule
    that needs what is not known takes it over the ranks, and is not exact.
    """
    z = (stats.top_logits.double() - stats.max_logit.double()[:, None]) / temperature
    complete = (stats.tail_log_mass == -torch.inf)[:, None]
    own, known = row_of(z), _known(stats, temperature)
    # Where the ranks are all there is, they say it without the fields' rounding.
    row = Row(*(mine.where(complete, its) for mine, its in zip(own, known, strict=True)))
    exact = complete | rule.decided(stats, z, row, temperature)
    row = row._replace(
        logsumexp=row.logsumexp.where(~row.logsumexp.isnan(), own.logsumexp),
        entropy=row.entropy.where(~row.entropy.isnan(), own.entropy),
    )
    return rule.keeps(z, row) & stats.valid[:, None], exact[:, 0] & stats.valid


def _known(stats: PositionStats, temperature: float) -> Row:
    """What fields say of softmax((z - max z) / T); NaN for what they do not."""
    unknown = torch.full_like(stats.logsumexp, torch.nan)
    known = stats.knows(temperature)
    logsumexp = stats.log_partition_of(temperature) if known else unknown
    entropy = stats.entropy.double() if temperature == 1 else unknown
    fields = (torch.zeros_like(unknown), logsumexp, entropy, unknown)
    return Row(*(field[:, None] for field in fields))


def _kept(z: Tensor, rules: Sequence[Rule]) -> Kept:
    valid = (z > -torch.inf).any(-1) & (z < torch.inf).all(-1)  # False for NaN, too
    z = z - z.amax(-1, keepdim=True)  # or large logits would lose their logsumexp
    row = row_of(z)
    p = (z - row.logsumexp).exp()
    keeps = torch.stack([rule.keeps(z, row) & valid[:, None] for rule in rules], -1)  # [n, V, R]
    mass = (p[..., None] * keeps).sum(1).clamp(max=1).masked_fill(~valid[:, None], torch.nan)
    return Kept(keeps.sum(1), mass, valid[:, None].expand(-1, len(rules)).clone())


def row_of(z: Tensor) -> Row:
    logsumexp = z.logsumexp(-1, keepdim=True)
    log_p = z - logsumexp
    entropy = -(log_p.exp() * log_p.where(z > -torch.inf, 0)).sum(-1, keepdim=True)
    return Row(z.amax(-1, keepdim=True), logsumexp, entropy, _std(z))


def _std(z: Tensor) -> Tensor:
    """Standard deviation [n, 1] of the finite entries, by n - 1; 0 for a single one."""
    finite = z > -torch.inf
    count = finite.sum(-1, keepdim=True)
    mean = z.where(finite, 0).sum(-1, keepdim=True) / count
    square = ((z - mean).where(finite, 0) ** 2).sum(-1, keepdim=True)
    return (square / (count - 1).clamp(min=1)).sqrt()


def _check(name: str, value: float, most: float) -> None:
    if not 0 < value <= most or not math.isfinite(value):
        raise UserError(f"{name} = {value}: must be a number in (0, {most:g}]")

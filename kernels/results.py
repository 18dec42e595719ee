"""What the entry points return: `PositionStats` of one model, `PairStats` of two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.fields import Fields
from ssd_probe.kernels.shards import merging

if TYPE_CHECKING:
    from ssd_probe.kernels.supports.many_decodings import Truncated

COMPARISONS = ("kl_base_other", "kl_other_base", "js", "tv")  # of `PairStats`


class PositionStats(Fields):
    """Statistics of N next-token distributions: the measured `Fields`, and what follows from them.

    Methods compute in float64. They need no more than the first eight fields, so they also work
    on a saved table: see `from_columns`.
    Source: paper sections 2 and 3.
    """

    @staticmethod
    def merge(parts: Sequence[PositionStats], first_ids: Sequence[int]) -> PositionStats:
        """The whole vocabulary's statistics from those of its shards, in any order.

        `parts[i]`: of the same rows, over the columns from id `first_ids[i]` on, by `shard_stats`
        (`kernels/shards/stats.py` has the protocol). Ids, ranks, `top_logits`, `valid` are exactly
        the whole's, the rest to the kernels' tolerance. Also of `position_stats`, without targets
        and where all rows are valid: else it cannot be told NaN from a shard that is all -inf.
        Errors: `UserError` for those, and for parts that are unlike in rows, K or temperatures.
        """
        return PositionStats(**merging.merge(parts, first_ids))

    def to(self, device: torch.device | str) -> Self:
        """All tensors on `device`, with what `truncated` remembers."""
        moved = super().to(device)
        for key, found in self.__dict__.get("_truncated", {}).items():
            known = moved.__dict__.setdefault("_truncated", {})
            known[key] = type(found)(*(column.to(device) for column in found))
        return moved

    @property
    def logsumexp(self) -> Tensor:
        """log sum exp(z) [N], float64."""
        return self.max_logit.double() + self.log_partition.double()

    def knows(self, temperature: float) -> bool:
        """Whether the logsumexp at this temperature was measured; at 1 it always was."""
        return temperature == 1 or temperature in self.temperatures

    def log_partition_of(self, temperature: float) -> Tensor:
        """logsumexp((z - max z) / T) [N], float64. Errors: `UserError` where it is not known."""
        if temperature == 1:
            return self.log_partition.double()
        if not self.knows(temperature):
            raise UserError(
                f"temperature = {temperature}: not among {self.temperatures}; "
                "name it in position_stats(temperatures=...)"
            )
        return self.log_partition_at[:, self.temperatures.index(temperature)].double()

    def top_probs(self, temperature: float = 1.0) -> Tensor:
        """Probabilities [N, K] of the top ranks under softmax(z / T).

        Errors: `UserError` where `log_partition_at` lacks the temperature (1 is always there).
        """
        if temperature == 1:
            return self._probs.clone()
        log_partition = self.log_partition_of(temperature)
        return (self._below_max / temperature - log_partition[:, None]).exp()

    @property
    def _below_max(self) -> Tensor:
        return self.top_logits.double() - self.max_logit.double()[:, None]

    @property
    def _probs(self) -> Tensor:
        """`top_probs` at T=1, made once: labels, comparison and curves all begin with it."""
        held: dict[str, Tensor] = self.__dict__.setdefault("_held", {})  # no field: not a tensor
        if "probs" not in held:
            held["probs"] = (self._below_max - self.log_partition.double()[:, None]).exp()
        return held["probs"]

    def top_mass(self, k: int) -> Tensor:
        """Mass [N] of the first k ranks, 0 <= k <= K, at T=1."""
        self._require_rank(k)
        return self._probs[:, :k].sum(-1).clamp(max=1)

    def tail_probability(self, k: int) -> Tensor:
        """Mass [N] beyond rank k, 0 <= k <= K, at T=1: a sum of what lies there, never 1 - head."""
        self._require_rank(k)
        return self._probs[:, k:].sum(-1) + self.tail_log_mass.double().exp()

    def renyi_entropy(self, temperature: float) -> Tensor:
        """Renyi entropy [N] of order 1/T, the one of the reshaping term.

            H_{1/T}(p) = T / (T - 1) * log sum_v p(v)^(1/T);  T = 1 is the Shannon entropy

        Errors: `UserError` where `log_partition_at` lacks the temperature.
        Source: paper section 3, eq. 12.
        """
        if temperature == 1:
            return self.entropy.double()
        log_partition = self.log_partition_of(temperature)
        log_power_sum = log_partition - self.log_partition.double() / temperature
        return (temperature / (temperature - 1) * log_power_sum).clamp(min=0)

    def support(self, decoding: Decoding) -> Tensor:
        """Which of the K ranks survive temperature, top-k and top-p: bool [N, K].

        Not always the whole answer: see `support_exact`. Source: paper section 2.
        """
        return decoding.kept(self.top_logits, self._nucleus_log_partition(decoding))

    def support_exact(self, decoding: Decoding) -> Tensor:
        """Whether `support` is the whole answer, decided within the K ranks: bool [N].

        Always for greedy and where nothing lies beyond rank K. With 1 <= top_k <= K unless a tie
        at the k-th logit may go on beyond rank K. With top-p alone when its mass is reached within
        the K ranks, not within 1e-6 of a rank's edge (what float32 fields can tell), and
        `log_partition_at` has the temperature. Otherwise the mask is cut at rank K.
        """
        complete = self.tail_log_mass == -torch.inf
        if decoding.is_greedy:
            return self.valid.clone()
        if 0 < decoding.top_k <= self.top_logits.shape[1]:
            last = self.top_logits[:, -1]
            tie_ends = last < self.top_logits[:, decoding.top_k - 1]
            # Another token as likely as the last rank would put at least its mass in the tail.
            tie_ends |= self.tail_log_mass < last.double() - self.logsumexp - 1e-5
            return self.valid & (complete | tie_ends)
        if decoding.top_k or decoding.top_p == 1:
            return self.valid & complete
        if not self.knows(decoding.temperature):
            return self.valid & complete
        mass = self.top_probs(decoding.temperature).cumsum(-1)
        clear = ((mass - decoding.top_p).abs() > 1e-6).all(-1)
        return self.valid & (complete | ((mass[:, -1] > decoding.top_p) & clear))

    def support_size(self, decoding: Decoding) -> Tensor:
        """How many of the K ranks survive, int64 [N]; a lower bound where not `support_exact`."""
        return self.support(decoding).sum(-1)

    def support_entropy(self, decoding: Decoding) -> Tensor:
        """Entropy [N] of the distribution that is drawn from: tempered, truncated, renormalised.

        Over the K ranks where not `support_exact`; without truncation at T=1 it is `entropy`.
        Source: paper section 2, figures 6c and 6d.
        """
        if decoding == Decoding():
            return self.entropy.double()
        temperature = 1.0 if decoding.is_greedy else decoding.temperature
        kept = self.support(decoding)
        tempered = (self.top_logits.double() / temperature).masked_fill(~kept, -torch.inf)
        log_q = tempered.log_softmax(-1)
        entropy = -(log_q.exp() * log_q.where(kept, 0)).sum(-1)
        return entropy.clamp(min=0).masked_fill(~self.valid, torch.nan)

    def truncated(self, decodings: Sequence[Decoding]) -> Truncated:
        """`support_size`, `support_entropy` and the likeliest token's probability, [N, D] each.

        On CPUs faster than one decoding after the other; rows that are not valid have a size of 0.
        Remembered, as labels, comparison and curves ask for the same; what comes back is a copy.
        Source: paper section 2, figures 6b and 6c.
        """
        known: dict[tuple, Truncated] = self.__dict__.setdefault("_truncated", {})
        if (key := tuple(decodings)) not in known:
            known[key] = self._truncate(key)
        return type(known[key])(*(column.clone() for column in known[key]))

    def _truncate(self, decodings: Sequence[Decoding]) -> Truncated:
        from ssd_probe.kernels.supports.many_decodings import (  # numba: only when asked
            Truncated,
            truncated,
        )

        if all(self._nucleus_log_partition(d) is None and d != Decoding() for d in decodings):
            ranked, valid = self.top_logits.float().cpu(), self.valid.cpu()
            if not valid.all():
                ranked = ranked.masked_fill(~valid[:, None], torch.nan)
            return truncated(ranked, decodings)
        columns = []
        for d in decodings:
            t, kept = 1.0 if d.is_greedy else d.temperature, self.support(d)
            log_z = (self.top_logits.double() / t).masked_fill(~kept, -torch.inf).logsumexp(-1)
            free = self.log_partition if d == Decoding() else log_z - self.max_logit.double() / t
            top1 = (-free).exp().double().masked_fill(~self.valid, torch.nan)
            columns.append((kept.sum(-1).where(self.valid, 0), self.support_entropy(d), top1))
        return Truncated(*(torch.stack(column, -1) for column in zip(*columns, strict=True)))

    def branching(self, decoding: Decoding) -> Tensor:
        """exp(`support_entropy`) [N]: how many equally likely tokens the support is worth."""
        return self.support_entropy(decoding).exp()

    def kept_mass(self, decoding: Decoding) -> Tensor:
        """KeptMass p(S) [N]: the mass that p at T=1 puts on the support.

        Over the K ranks where not `support_exact`; without truncation it is 1.
        Source: paper section 3.
        """
        if not decoding.truncates:
            return torch.ones_like(self.logsumexp).masked_fill(~self.valid, torch.nan)
        kept = self.support(decoding)
        mass = self._probs.where(kept, 0).sum(-1).clamp(max=1)
        return mass.masked_fill(~self.valid, torch.nan)

    def _require_rank(self, k: int) -> None:
        if not 0 <= k <= self.top_logits.shape[1]:
            raise UserError(f"k = {k}: must be in 0..{self.top_logits.shape[1]}, the ranks kept")

    def _nucleus_log_partition(self, decoding: Decoding) -> Tensor | None:
        """logsumexp(z / T) [N] of what top-p sees; None: take it over the ranks."""
        temperature = decoding.temperature
        if decoding.is_greedy or decoding.top_k or not self.knows(temperature):
            return None
        known = self.max_logit.double() / temperature + self.log_partition_of(temperature)
        # With nothing beyond rank K the ranks say it exactly, free of the fields' rounding.
        over_ranks = (self.top_logits.double() / temperature).logsumexp(-1)
        return over_ranks.where(self.tail_log_mass == -torch.inf, known)


@dataclasses.dataclass(eq=False)
class PairStats:
    """N pairs of distributions, p = softmax(base) and q = softmax(other); float32, nats.

    `base`, `other`: `PositionStats` of each; `kl_base_other` [N] = KL(p||q), +inf where q lacks a
    token that p has; `kl_other_base` [N] = KL(q||p); `js` [N] = Jensen-Shannon divergence, in
    [0, ln 2]; `tv` [N] = total variation, in [0, 1]; `other_at_base_top` [N, K] = the other's
    logits at `base.top_ids`, -inf where an id is -1; `valid` [N] bool: both are valid. The
    comparisons of a row that is not are NaN.

    KeptMass of the student on the base's support, the loss's three terms and the entropy's split
    into gate, head and tail follow from `base.top_logits` and `other_at_base_top`.
    Source: paper section 3.
    """

    base: PositionStats
    other: PositionStats
    kl_base_other: Tensor
    kl_other_base: Tensor
    js: Tensor
    tv: Tensor
    other_at_base_top: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device | str) -> PairStats:
        """All tensors on `device`."""
        return PairStats(**{name: value.to(device) for name, value in vars(self).items()})

    def cpu(self) -> PairStats:
        """All tensors in the host's memory."""
        return self.to("cpu")

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays of length N by field name; those of `base` and `other` as `base_*`, `other_*`."""
        columns = {f"base_{name}": value for name, value in self.base.to_columns().items()}
        columns |= {f"other_{name}": value for name, value in self.other.to_columns().items()}
        for name in (*COMPARISONS, "other_at_base_top", "valid"):
            columns[name] = getattr(self, name).cpu().numpy()
        return columns

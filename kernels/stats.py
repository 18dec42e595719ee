"""Per-position statistics of next-token logits: the result and the one entry point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ssd_probe.decoding import GREEDY_BELOW, Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose

if TYPE_CHECKING:
    from ssd_probe.kernels.truncation import Truncated

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclasses.dataclass(eq=False)
class PositionStats:
    """Statistics of N next-token distributions p = softmax(z); float32 unless said, nats.

    `max_logit` [N]; `log_partition` [N] = logsumexp(z) - max z; `entropy` [N];
    `varentropy` [N] = Var(log p) = dH/dT at T=1; `tail_log_mass` [N] = log of the mass beyond rank
    K; `top_logits`, `top_ids` (int32) [N, K] by (logit descending, id ascending), padded with -inf
    and -1; `valid` [N] bool: False where a row holds NaN or +inf or is all -inf, and then its
    statistics are NaN and its ids and rank -1; `log_partition_at` [N, len(temperatures)] =
    logsumexp((z - max z) / T); `target_logprob`, `target_rank` (int32, from 1) [N], or None.

    Methods compute in float64. They need no more than the first eight fields, so they also work
    on a saved table: see `from_columns`.
    Source: paper sections 2 and 3.
    """

    max_logit: Tensor
    log_partition: Tensor
    entropy: Tensor
    varentropy: Tensor
    tail_log_mass: Tensor
    top_logits: Tensor
    top_ids: Tensor
    valid: Tensor
    temperatures: tuple[float, ...] = ()
    log_partition_at: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, 0))
    target_logprob: Tensor | None = None
    target_rank: Tensor | None = None

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> PositionStats:
        """Rebuild from saved columns: numpy arrays, tensors or a frame; others are ignored.

        A 2-D field may be a column of equally long arrays. Errors: `UserError` for a missing one.
        """
        fields = [f for f in dataclasses.fields(cls) if f.name not in _TEMPERATURE_FIELDS]
        required = [f.name for f in fields if f.default is dataclasses.MISSING]
        missing = [name for name in required if name not in columns]
        if missing:
            raise UserError(f"position statistics: missing columns {', '.join(missing)}")
        found: dict[str, Any] = {}
        for f in fields:
            if f.name in columns:
                found[f.name] = _tensor(columns[f.name])
        stats = cls(**found)
        prefix = "log_partition_at_"
        names = [name for name in columns if str(name).startswith(prefix)]
        if names:
            stats.temperatures = tuple(float(name.removeprefix(prefix)) for name in names)
            stats.log_partition_at = torch.stack([_tensor(columns[n]) for n in names], -1)
        return stats

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays of length N by field name (top_* are [N, K]), `log_partition_at_<T>` one by T."""
        columns = {
            f.name: value.cpu().numpy()
            for f in dataclasses.fields(self)
            if f.name not in _TEMPERATURE_FIELDS and (value := getattr(self, f.name)) is not None
        }
        for i, temperature in enumerate(self.temperatures):
            name = f"log_partition_at_{temperature}"
            columns[name] = self.log_partition_at[:, i].cpu().numpy()
        return columns

    @classmethod
    def concat(cls, parts: Sequence[PositionStats]) -> PositionStats:
        """The rows of all parts, in order; they share K, temperatures and having targets."""
        if not parts:
            raise UserError("concat: needs at least one part")
        if any(part.temperatures != parts[0].temperatures for part in parts):
            raise UserError("concat: the parts hold different temperatures")
        return cls.collect(parts, sum(len(part) for part in parts))

    @classmethod
    def collect(cls, parts: Iterable[PositionStats], rows: int) -> PositionStats:
        """`concat` of parts of `rows` rows in all, each let go before the next is made."""
        whole: PositionStats | None = None
        done = 0
        for part in parts:
            if len(part) == rows:
                return part
            tensors = part._by_row()
            if whole is None:
                shapes = {n: (rows, *v.shape[1:]) for n, v in tensors.items()}
                empty: dict[str, Any] = {n: v.new_empty(shapes[n]) for n, v in tensors.items()}
                whole = dataclasses.replace(part, **empty)
            for name, value in tensors.items():
                getattr(whole, name)[done : done + len(part)] = value
            done += len(part)
        if whole is None or done != rows:
            raise UserError(f"collect: the parts hold {done} rows, not {rows}")
        return whole

    def rows(self, index: Any) -> PositionStats:
        """Only these rows: a slice, a mask [N] or indices."""
        chosen: dict[str, Any] = {name: v[index] for name, v in self._by_row().items()}
        return dataclasses.replace(self, **chosen)

    def _by_row(self) -> dict[str, Tensor]:
        """The fields with an entry a row: not `log_partition_at` where it is a placeholder."""
        fields = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        return {n: v for n, v in fields.items() if self.temperatures or n != "log_partition_at"}

    @property
    def logsumexp(self) -> Tensor:
        """log sum exp(z) [N], float64."""
        return self.max_logit.double() + self.log_partition.double()

    def top_probs(self, temperature: float = 1.0) -> Tensor:
        """Probabilities [N, K] of the top ranks under softmax(z / T).

        Errors: `UserError` where `log_partition_at` lacks the temperature (1 is always there).
        """
        log_partition = self._log_partition_at(temperature)
        below_max = self.top_logits.double() - self.max_logit.double()[:, None]
        return (below_max / temperature - log_partition[:, None]).exp()

    def top_mass(self, k: int) -> Tensor:
        """Mass [N] of the first k ranks, 0 <= k <= K, at T=1."""
        self._require_rank(k)
        return self.top_probs()[:, :k].sum(-1).clamp(max=1)

    def tail_probability(self, k: int) -> Tensor:
        """Mass [N] beyond rank k, 0 <= k <= K, at T=1: a sum of what lies there, never 1 - head."""
        self._require_rank(k)
        beyond = self.top_logits[:, k:].double() - self.logsumexp[:, None]
        return beyond.exp().sum(-1) + self.tail_log_mass.double().exp()

    def renyi_entropy(self, temperature: float) -> Tensor:
        """Renyi entropy [N] of order 1/T, the one of the reshaping term.

            H_{1/T}(p) = T / (T - 1) * log sum_v p(v)^(1/T);  T = 1 is the Shannon entropy

        Errors: `UserError` where `log_partition_at` lacks the temperature.
        Source: paper section 3, eq. 12.
        """
        if temperature == 1:
            return self.entropy.double()
        log_partition = self._log_partition_at(temperature)
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
        if not self._knows(decoding.temperature):
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
        Remembered, as labels, comparison and curves ask for the same.
        Source: paper section 2, figures 6b and 6c.
        """
        known: dict[tuple, Truncated] = self.__dict__.setdefault("_truncated", {})
        if (key := tuple(decodings)) not in known:
            known[key] = self._truncate(key)
        return known[key]

    def _truncate(self, decodings: Sequence[Decoding]) -> Truncated:
        from ssd_probe.kernels.truncation import Truncated, truncated

        if all(self._nucleus_log_partition(d) is None and d != Decoding() for d in decodings):
            ranked = self.top_logits.float().cpu()
            return truncated(ranked.masked_fill(~self.valid.cpu()[:, None], torch.nan), decodings)
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
        mass = self.top_probs().where(kept, 0).sum(-1).clamp(max=1)
        return mass.masked_fill(~self.valid, torch.nan)

    def _require_rank(self, k: int) -> None:
        if not 0 <= k <= self.top_logits.shape[1]:
            raise UserError(f"k = {k}: must be in 0..{self.top_logits.shape[1]}, the ranks kept")

    def _knows(self, temperature: float) -> bool:
        return temperature == 1 or temperature in self.temperatures

    def _log_partition_at(self, temperature: float) -> Tensor:
        """logsumexp((z - max z) / T) [N], float64."""
        if temperature == 1:
            return self.log_partition.double()
        if not self._knows(temperature):
            raise UserError(
                f"temperature = {temperature}: not among {self.temperatures}; "
                "name it in position_stats(temperatures=...)"
            )
        return self.log_partition_at[:, self.temperatures.index(temperature)].double()

    def _nucleus_log_partition(self, decoding: Decoding) -> Tensor | None:
        """logsumexp(z / T) [N] of what top-p sees; None: take it over the ranks."""
        temperature = decoding.temperature
        if decoding.is_greedy or decoding.top_k or not self._knows(temperature):
            return None
        known = self.max_logit.double() / temperature + self._log_partition_at(temperature)
        # With nothing beyond rank K the ranks say it exactly, free of the fields' rounding.
        over_ranks = (self.top_logits.double() / temperature).logsumexp(-1)
        return over_ranks.where(self.tail_log_mass == -torch.inf, known)


_TEMPERATURE_FIELDS = ("temperatures", "log_partition_at")


@torch.no_grad()
def position_stats(
    logits: Tensor,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> PositionStats:
    """Statistics of each row's next-token distribution.

    `logits` [N, V] float32, bfloat16 or float16 (-inf entries are legal); `top_k` = K ranks kept;
    `temperatures` to give `log_partition_at`; `targets` [N] ids for `target_logprob` and
    `target_rank`; columns >= `vocab_size` (padding of the matrix) are not part of p.
    `backend`: "triton", "cpu" (numba), "torch", or "auto": see `kernels/backends.py`.

    Errors: `UserError` for a wrong shape, dtype, range or backend.
    Source: design section 2; `kernels/reference.py` has the formulas.
    """
    temperatures = tuple(float(t) for t in temperatures)
    check(logits, top_k, temperatures, targets, vocab_size)
    logits = logits[:, :vocab_size]
    if targets is not None:
        targets = targets.to(logits.device, torch.int64)
    name, _ = choose(backend, logits.device, top_k)
    # Backends import PositionStats from here, so they are imported when called.
    if name == "triton":
        from ssd_probe.kernels.gpu import position_stats as run
    elif name == "cpu":
        from ssd_probe.kernels.cpu import position_stats as run
    else:
        from ssd_probe.kernels.eager import position_stats as run
    return run(logits, top_k, temperatures, targets)


def check(
    logits: Tensor,
    top_k: int,
    temperatures: tuple[float, ...],
    targets: Tensor | None,
    vocab_size: int | None,
) -> None:
    """Raise `UserError` where `position_stats` cannot take these arguments."""
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise UserError(f"logits of shape {tuple(logits.shape)}: must be [N, V] with V >= 1")
    if logits.dtype not in DTYPES:
        raise UserError(f"logits of {logits.dtype}: must be float32, bfloat16 or float16")
    columns = logits.shape[1]
    if vocab_size is not None and not 1 <= vocab_size <= columns:
        raise UserError(f"vocab_size = {vocab_size}: must be in 1..{columns}, the columns")
    if top_k < 1:
        raise UserError(f"top_k = {top_k}: must be an integer >= 1, the ranks to keep")
    for t in temperatures:
        if not (math.isfinite(t) and t >= GREEDY_BELOW):
            raise UserError(f"temperatures: {t}: must be finite and >= {GREEDY_BELOW}")
    if targets is None:
        return
    if targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise UserError(f"targets of shape {tuple(targets.shape)}: must be integers [N]")
    if ((targets < 0) | (targets >= (vocab_size or columns))).any():
        raise UserError(f"targets: must be ids in 0..{(vocab_size or columns) - 1}")


def _tensor(column: Any) -> Tensor:
    """A column as a tensor; copied, because a table's arrays may be read-only."""
    if isinstance(column, Tensor):
        return column
    array = np.asarray(column)
    if array.dtype == object:  # a frame's column of arrays
        array = np.stack(array.tolist()) if len(array) else np.empty((0, 0), np.float32)
    return torch.tensor(array)

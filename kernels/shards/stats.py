"""Statistics of a shard of the vocabulary, as a tensor-parallel head's rank has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.closing import before
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats


@dataclasses.dataclass(eq=False)
class ShardStats(PositionStats):
    """`PositionStats` of some columns, and what the whole needs of them: see `shard_stats`.

    `masked` [N] bool: all of the shard's logits are -inf, so it is not `valid`, and the whole may
    be; `target_logit` [N]: the target's, wherever it lies, NaN without one; `before` [N] int64:
    how many of the shard's tokens come before the target.
    """

    masked: Tensor | None = None
    target_logit: Tensor | None = None
    before: Tensor | None = None


def target_logits(
    logits: Tensor, first_id: int, targets: Tensor, *, vocab_size: int | None = None
) -> Tensor:
    """The logits [N] float32 of the targets in the shard `logits` [N, V]; -inf of others.

    `targets` [N]: ids of the whole vocabulary, -100 where a row has none. The maximum over the
    shards is what `shard_stats` needs. A NaN is given as -inf: its row is not valid anyway.
    """
    local = targets.to(logits.device).long() - first_id
    size = logits[:, :vocab_size].shape[1]
    value = logits.gather(-1, local.clamp(0, size - 1)[:, None])[:, 0].float()
    elsewhere = (local < 0) | (local >= size) | (targets.to(logits.device) < 0)
    return value.masked_fill(elsewhere | value.isnan(), -torch.inf)


@torch.no_grad()
def shard_stats(
    logits: Tensor,
    first_id: int = 0,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    target_logits: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> ShardStats:
    """Statistics of the columns `logits` [N, V], whose ids are `first_id`, `first_id` + 1, ...

    `PositionStats.merge` makes those of the whole vocabulary from all shards'. `targets` [N] are
    ids of the whole, -100 for none, and `target_logits` [N] their logits: the maximum over the
    shards of the function of that name, as no shard but one knows a target's. `vocab_size`: this
    shard's columns that are tokens. The other arguments are those of `position_stats`.

    On each rank of a tensor-parallel head (the parts are small: about 8 (K + 6) bytes a row):

        value = target_logits(logits, first_id, targets)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        part = shard_stats(logits, first_id, targets=targets, target_logits=value)
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (first_id, part.cpu()))
        first_ids, parts = zip(*parts)
        whole = PositionStats.merge(parts, first_ids)  # the same on every rank

    Errors: `UserError` as `position_stats`, and for targets without their logits.
    """
    if logits.ndim != 2:
        raise UserError(f"logits of shape {tuple(logits.shape)}: a shard must be [N, V]")
    if (targets is None) != (target_logits is None):
        raise UserError("targets and target_logits: a shard needs both, or neither")
    stats = position_stats(
        logits, top_k=top_k, temperatures=temperatures, vocab_size=vocab_size, backend=backend
    )
    x = logits[:, :vocab_size]
    masked = ~stats.valid
    rows = masked.nonzero()[:, 0]
    masked[rows] = (x[rows] == -torch.inf).all(-1)
    shard = ShardStats(**vars(stats), masked=masked)
    if targets is not None and target_logits is not None:
        targets = targets.to(x.device).long()
        value = target_logits.to(x.device).float()
        shard.target_logit = value.masked_fill(targets < 0, torch.nan)
        shard.before = _before(x, shard, targets - first_id, value)
    return shard


def _before(x: Tensor, stats: PositionStats, targets: Tensor, value: Tensor) -> Tensor:
    """How many tokens come before (value, target), `targets` counting from the first column [N]."""
    v, target = value[:, None], targets[:, None]
    top, ids = stats.top_logits, stats.top_ids
    count = ((top > v) | ((top == v) & (ids < target))).sum(-1)  # all, if beyond none can be
    # A row that is not valid, with NaN for its ranks, is masked or counts for nothing.
    rare = (~(value > top[:, -1])).nonzero()[:, 0]
    count[rare] = before(x, value, targets, rare)
    return count

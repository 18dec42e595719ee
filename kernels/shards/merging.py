"""From statistics of shards of the vocabulary to those of the whole, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.fields import Fields


def merge(parts: Sequence[Fields], first_ids: Sequence[int]) -> dict[str, Any]:
    """The whole's fields. With w_i the shard's mass, and H_i, V_i its entropy and varentropy:

        H = sum w_i (H_i - log w_i)    V = sum w_i (V_i + (H - H_i + log w_i)^2)

    No sum has terms of both signs, so a lock's tiny entropy keeps its digits.
    """
    _check(parts, first_ids)
    order = sorted(range(len(parts)), key=lambda i: first_ids[i])
    parts, first_ids = [parts[i] for i in order], [first_ids[i] for i in order]

    there = torch.stack([part.valid for part in parts], -1)  # [N, S]
    masked = torch.stack([_or(part, "masked", False) for part in parts], -1)
    valid = there.any(-1) & (there | masked).all(-1)

    def stacked(name: str, missing: float = 0.0) -> Tensor:  # [N, S]
        values = torch.stack([getattr(part, name) for part in parts], -1).double()
        return values.where(there, missing)

    tops = stacked("max_logit", -torch.inf)
    top, best = tops.max(-1)  # [N]
    gap = (tops - top[:, None]).masked_fill(~there, -torch.inf)  # [N, S], <= 0
    free = stacked("log_partition")
    log_partition = _joined(gap, free, best)
    log_w = (gap + free - log_partition[:, None]).where(there, -torch.inf)
    w, log_w_or_0 = log_w.exp(), log_w.where(there, 0)
    entropies = stacked("entropy") - log_w_or_0
    entropy = (w * entropies).sum(-1)
    varentropy = (w * (stacked("varentropy") + (entropy[:, None] - entropies) ** 2)).sum(-1)

    ids = [part.top_ids.long() + first for part, first in zip(parts, first_ids, strict=True)]
    ids = [new.where(part.top_ids >= 0, -1) for new, part in zip(ids, parts, strict=True)]
    found = torch.cat([p.top_logits.where(p.valid[:, None], -torch.inf) for p in parts], -1)
    ranked, by = found.sort(dim=-1, descending=True, stable=True)  # ties: by shard, so by id
    k = parts[0].top_logits.shape[1]
    left = ranked[:, k:].double() - top[:, None] - log_partition[:, None]
    tail = torch.cat([stacked("tail_log_mass", -torch.inf) + log_w, left], -1).logsumexp(-1)

    temperatures = parts[0].temperatures
    at = [
        _joined(gap / t, stacked_at.where(there, 0), best)
        for i, t in enumerate(temperatures)
        for stacked_at in [torch.stack([p.log_partition_at[:, i] for p in parts], -1).double()]
    ]

    def column(values: Tensor) -> Tensor:
        return values.float().masked_fill(~valid.view(-1, *[1] * (values.ndim - 1)), torch.nan)

    fields = {
        "max_logit": column(top),
        "log_partition": column(log_partition),
        "entropy": column(entropy),
        "varentropy": column(varentropy),
        "tail_log_mass": column(tail),
        "top_logits": column(ranked[:, :k]),
        "top_ids": torch.cat(ids, -1).gather(-1, by)[:, :k].masked_fill(~valid[:, None], -1).int(),
        "valid": valid,
        "temperatures": temperatures,
        "log_partition_at": column(torch.stack(at, -1) if at else top.new_empty(len(top), 0)),
    }
    logit = getattr(parts[0], "target_logit", None)
    if logit is None:
        return fields
    before = torch.stack([_or(part, "before", 0) for part in parts], -1).sum(-1)
    logprob = logit.double() - top - log_partition
    return fields | {
        "target_logprob": column(logprob),
        "target_rank": (before + 1).masked_fill(~valid | logit.isnan(), -1).int(),
    }


def _joined(gap: Tensor, free: Tensor, best: Tensor) -> Tensor:
    """log of sum_i e^(gap_i + free_i) [N], gap being 0 at `best`; log1p for a lock's sake."""
    base = free.gather(-1, best[:, None])[:, 0]
    rest = (gap + free).scatter(-1, best[:, None], -torch.inf).exp().sum(-1)
    return (base.expm1() + rest).log1p()


def _or(part: Fields, name: str, missing: Any) -> Tensor:
    value = getattr(part, name, None)
    return torch.full_like(part.valid, missing, dtype=torch.long) if value is None else value


def _check(parts: Sequence[Fields], first_ids: Sequence[int]) -> None:
    if not parts or len(parts) != len(first_ids):
        raise UserError(f"merge: {len(parts)} parts, {len(first_ids)} first ids: one for each part")
    if len({*first_ids}) < len(first_ids):
        raise UserError(f"merge: first ids {list(first_ids)}: two parts begin at the same column")
    if any(len(p) != len(parts[0]) or p._form() != parts[0]._form() for p in parts):
        raise UserError(
            "merge: the parts hold different rows, temperatures, numbers of ranks or targets; "
            "compute them with the same arguments"
        )
    for i, part in enumerate(parts):
        if hasattr(part, "masked"):
            continue
        if part.target_rank is not None or not part.valid.all():
            raise UserError(
                f"merge: part {i} has targets, or rows that are not valid in it and may be so in "
                "the whole; compute the parts with ssd_probe.kernels.shards.stats.shard_stats"
            )

"""Per-position statistics of logits, as the specification: plain float64 torch, one line each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_probe.kernels.stats import PositionStats


def position_stats(
    logits: Tensor,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
) -> PositionStats:
    """What `ssd_probe.kernels.stats.position_stats` must return, in float64.

        p = softmax(z)    entropy = -sum p log p    varentropy = sum p (log p + entropy)^2
        log_partition = logsumexp(z) - max z        log_partition_at = logsumexp((z - max z) / T)
        tail_log_mass = logsumexp of log p beyond rank K

    `logits` [N, V], `targets` [N]. Ranks count from 1, by (logit descending, id ascending).
    Source: paper section 3 (entropy, its slope), design section 2 (fields).
    """
    x = logits[:, :vocab_size].double()  # [N, V]
    finite = x > -torch.inf
    valid = finite.any(-1) & ~(x.isnan() | (x == torch.inf)).any(-1)
    x = x.masked_fill(~valid[:, None], torch.nan)

    ranked, order = x.sort(dim=-1, descending=True, stable=True)
    top = ranked[:, 0]
    log_p = x - x.logsumexp(-1, keepdim=True)
    p = log_p.exp()
    entropy = -(p * log_p.where(finite, 0)).sum(-1)
    deviation = (log_p + entropy[:, None]).where(finite, 0)
    ranked_log_p = log_p.gather(-1, order)
    scaled = [((x - top[:, None]) / t).logsumexp(-1) for t in temperatures]

    pad = (0, max(0, top_k - x.shape[1]))
    top_logits = torch.nn.functional.pad(ranked[:, :top_k], pad, value=-torch.inf)
    top_logits = top_logits.masked_fill(~valid[:, None], torch.nan)
    top_ids = torch.nn.functional.pad(order[:, :top_k], pad, value=-1)
    stats = PositionStats(
        max_logit=top,
        log_partition=x.logsumexp(-1) - top,
        entropy=entropy,
        varentropy=(p * deviation**2).sum(-1),
        tail_log_mass=ranked_log_p[:, top_k:].logsumexp(-1).masked_fill(~valid, torch.nan),
        top_logits=top_logits,
        top_ids=top_ids.where(top_logits > -torch.inf, -1).int(),
        valid=valid,
        temperatures=tuple(temperatures),
        log_partition_at=torch.stack(scaled, -1) if scaled else x.new_empty(len(x), 0),
    )
    if targets is not None:
        stats.target_logprob = log_p.gather(-1, targets[:, None])[:, 0]
        rank = (order == targets[:, None]).int().argmax(-1) + 1
        stats.target_rank = rank.where(valid, -1).int()
    return stats

"""Per-position statistics of logits, as the specification: plain float64 torch, one line each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_probe.kernels.results import PairStats, PositionStats


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

    `logits` [N, V], `targets` [N]. Ranks count from 1, by (logit descending, id ascending). An id
    outside 0..V-1 is no target: NaN and rank -1.
    Source: paper section 3 (entropy, its slope), design section 2 (fields).
    """
    x = logits[:, :vocab_size].double()  # [N, V]
    finite = x > -torch.inf
    valid = finite.any(-1) & ~(x.isnan() | (x == torch.inf)).any(-1)
    x = x.masked_fill(~valid[:, None], torch.nan)

    ranked, order = x.sort(dim=-1, descending=True, stable=True)
    top = ranked[:, 0]
    y = x - top[:, None]  # first: at logits of 1e17 nothing of log_partition would be left
    log_partition = y.logsumexp(-1)
    log_p = y - log_partition[:, None]
    p = log_p.exp()
    entropy = -(p * log_p.where(finite, 0)).sum(-1)
    deviation = (log_p + entropy[:, None]).where(finite, 0)
    ranked_log_p = log_p.gather(-1, order)
    scaled = [(y / t).logsumexp(-1) for t in temperatures]

    pad = (0, max(0, top_k - x.shape[1]))
    top_logits = torch.nn.functional.pad(ranked[:, :top_k], pad, value=-torch.inf)
    top_logits = top_logits.masked_fill(~valid[:, None], torch.nan)
    top_ids = torch.nn.functional.pad(order[:, :top_k], pad, value=-1)
    stats = PositionStats(
        max_logit=top,
        log_partition=log_partition,
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
        there = (targets >= 0) & (targets < x.shape[1])
        target_log_p = log_p.gather(-1, targets.where(there, 0)[:, None])[:, 0]
        stats.target_logprob = target_log_p.where(there, torch.nan)
        rank = (order == targets[:, None]).int().argmax(-1) + 1
        stats.target_rank = rank.where(valid & there, -1).int()
    return stats


def pair_stats(
    base_logits: Tensor,
    other_logits: Tensor,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
) -> PairStats:
    """What `ssd_probe.kernels.pair.pair_stats` must return, in float64.

        KL(p||q) = sum p log(p/q) = sum p (e^d - 1 - d),  d = log q - log p
        JS = (KL(p||m) + KL(q||m)) / 2,  m = (p + q) / 2        TV = sum |p - q| / 2

    The second form is the first plus sum (q - p) = 0: each term is >= 0, so a KL of 1e-12 keeps
    nine digits. `base_logits` gives p, `other_logits` q; [N, V].
    Source: paper section 3, design section 2 (fields).
    """
    arguments = {
        "top_k": top_k, "temperatures": temperatures, "targets": targets, "vocab_size": vocab_size,
    }  # fmt: skip
    base = position_stats(base_logits, **arguments)  # type: ignore[arg-type]
    other = position_stats(other_logits, **arguments)  # type: ignore[arg-type]
    valid = base.valid & other.valid
    x, y = base_logits[:, :vocab_size].double(), other_logits[:, :vocab_size].double()  # [N, V]
    log_p, log_q = x.log_softmax(-1), y.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    d = (log_q - log_p).where((x > -torch.inf) | (y > -torch.inf), 0)
    m_over_p, m_over_q = (d.expm1() / 2).log1p(), ((-d).expm1() / 2).log1p()  # logs
    js = _kl_terms(p, (p + q) / 2, m_over_p) / 2 + _kl_terms(q, (p + q) / 2, m_over_q) / 2
    at_top = y.gather(-1, base.top_ids.clamp(min=0).long())

    def comparison(values: Tensor) -> Tensor:
        return values.masked_fill(~valid.view(-1, *[1] * (values.ndim - 1)), torch.nan)

    return PairStats(
        base=base,
        other=other,
        kl_base_other=comparison(_kl_terms(p, q, d).sum(-1)),
        kl_other_base=comparison(_kl_terms(q, p, -d).sum(-1)),
        js=comparison(js.sum(-1)),
        tv=comparison((p * d.expm1()).where(d < 1, q - p).abs().sum(-1) / 2),
        other_at_base_top=comparison(at_top.masked_fill(base.top_ids < 0, -torch.inf)),
        valid=valid,
    )


def _kl_terms(p: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """p (e^d - 1 - d) = q - p - p d; that is q where only p is 0, +inf where only q is."""
    present = p * (d.expm1() - d)
    absent = (q - p) - p * d.clamp(max=1e3)  # p > 0 only up to d = 745
    return present.where(d < 1, absent).where(d > -torch.inf, torch.inf)

"""From the head (K ranks) and sums over the tail to `PositionStats`: the formulas, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd_probe.kernels.results import PositionStats

RARE_ELEMENTS = 2**24  # logits compared at a time with targets beyond rank K


def close(
    values: Tensor,
    ids: Tensor,
    shift: Tensor,
    sums: Tensor,
    sums_at: Tensor,
    top_k: int,
    temperatures: tuple[float, ...],
) -> PositionStats:
    """The statistics without targets.

    `values`, `ids` [n, <= K]: the head by (value descending, id ascending), padded with -inf;
    `shift` [n]: any finite number near the tail's largest logit; with y = z - shift over the tail,
    `sums` [n, 3]: of e^y, y e^y, y^2 e^y, and `sums_at` [n, len(temperatures)]: of e^(y / T).
    A row is valid when its largest value and its sums are finite: NaN anywhere must reach either.
    """
    top = values[:, 0]
    below = values.double() - top.double()[:, None]  # [n, K], <= 0
    gap = shift.double() - top.double()  # [n], <= 0
    log_partition, entropy, varentropy, tail_log_mass = _moments(below, gap, *sums.double().T)
    at = [
        _log_partition(below / t, gap / t, weight)
        for t, weight in zip(temperatures, sums_at.double().T, strict=True)
    ]
    valid = top.isfinite() & sums[:, 0].isfinite()

    def column(values: Tensor) -> Tensor:
        return values.float().masked_fill(~valid.view(-1, *[1] * (values.ndim - 1)), torch.nan)

    missing = (0, top_k - values.shape[1])
    ids = ids.masked_fill(~(values > -torch.inf) | ~valid[:, None], -1)
    return PositionStats(
        max_logit=column(top),
        log_partition=column(log_partition),
        entropy=column(entropy),
        varentropy=column(varentropy),
        tail_log_mass=column(tail_log_mass),
        top_logits=column(pad(values, missing, value=-torch.inf)),
        top_ids=pad(ids, missing, value=-1).int(),
        valid=valid,
        temperatures=temperatures,
        log_partition_at=column(torch.stack(at, -1) if at else top.new_empty(len(top), 0)),
    )


def _moments(
    below: Tensor, gap: Tensor, weight: Tensor, weight_y: Tensor, weight_yy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_partition, entropy, varentropy and tail_log_mass [n].

    The tail's sums are relative to `gap` below the max, so a tail of 1e-30 is as accurate as any.
    """
    log_partition = _log_partition(below, gap, weight)
    d = below.clamp(min=-1e3)  # its weight is 0 either way, and 0 * -inf would be NaN
    p = (d - log_partition[:, None]).exp()
    tail = (gap - log_partition).exp()
    mean = (p * d).sum(-1) + tail * (weight_y + gap * weight)  # E[z - max]
    b = gap - mean
    varentropy = (p * (d - mean[:, None]) ** 2).sum(-1)
    varentropy += tail * (weight_yy + 2 * b * weight_y + b**2 * weight)
    tail_log_mass = gap + weight.log() - log_partition
    # log_partition >= 0 and mean <= 0: nothing cancels, a lock's tiny entropy keeps its digits.
    return log_partition, log_partition - mean, varentropy.clamp(min=0), tail_log_mass


def _log_partition(below: Tensor, gap: Tensor, weight: Tensor) -> Tensor:
    """log of sum e^below + e^gap weight, the first of `below` being 0; log1p for a lock's sake."""
    return (below[:, 1:].exp().sum(-1) + gap.exp() * weight).log1p()


def target_fields(
    stats: PositionStats, targets: Tensor, value: Tensor, rare_rank: Callable[[Tensor], Tensor]
) -> None:
    """Set `target_logprob` and `target_rank` from the targets' logits `value` [n].

    `rare_rank` gives the ranks of the rows it is called with: those whose target is beyond rank K.
    A row whose target is below 0, or has a NaN for its logit, has none: NaN and -1.
    """
    there = stats.valid & (targets >= 0) & ~value.isnan()
    log_p = value.double() - stats.max_logit.double() - stats.log_partition.double()
    stats.target_logprob = log_p.masked_fill(~there, torch.nan).float()
    hit = stats.top_ids == targets[:, None]
    rank = hit.int().argmax(-1) + 1
    rare = (~hit.any(-1) & there).nonzero()[:, 0]
    if len(rare):
        rank[rare] = rare_rank(rare)
    stats.target_rank = rank.masked_fill(~there, -1).int()


def target_fields_of(logits: Tensor, stats: PositionStats, targets: Tensor) -> None:
    """`target_fields` from the logits [n, V]; only targets beyond rank K cost a pass."""
    size = logits.shape[1]
    value = logits.gather(-1, targets.clamp(0, size - 1)[:, None])[:, 0]
    value = value.masked_fill((targets < 0) | (targets >= size), torch.nan)
    target_fields(stats, targets, value, lambda rows: before(logits, value, targets, rows) + 1)


def before(logits: Tensor, value: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """How many tokens of these rows [n] of `logits` [N, V] come before (`value`, `targets`) [N]."""
    column = torch.arange(logits.shape[1], device=logits.device)
    counts = []
    for some in rows.split(max(1, RARE_ELEMENTS // logits.shape[1])):
        x, v, target = logits[some], value[some, None], targets[some, None]
        counts.append(((x > v) | ((x == v) & (column < target))).sum(-1))
    return torch.cat(counts)


def close_pair(sums: Tensor) -> Tensor:
    """[N, 4]: both KL, JS, TV, from a kernel's `sums` [N, 6] float64.

    The kernels see p' = p a and q' = q b, with a and b within 1e-6 of 1 because the log partitions
    are rounded. `sums`: of the elements of KL(p'||q'), KL(q'||p'), JS and |q' - p'|, of q' - p',
    and of q' where it is above p'. Exactly, with r = (sum q' - sum p') / sum p',

        KL(p||q) = sum [p' (e^d - 1 - d)] / sum p' - (r - log(1 + r))

    r is known to 1e-9 or so, being itself a sum of differences; without it KL could not be told
    from r^2 / 2 = 5e-13. For JS the correction is r^2 / 8 + O(r JS). For TV it is r / 2
    times the sum of sign(q' - p') q', but for the tokens whose sign r turns.
    """
    kl, lk, js, tv, r, above = sums.double().T
    back = -r / (1 + r)
    found = [
        kl - (r - r.log1p()),
        lk / (1 + r) - (back - back.log1p()),
        js - r**2 / 8,
        (tv - r * (2 * above - 1)) / 2,
    ]
    most = (torch.inf, torch.inf, math.log(2), 1.0)
    # The one NaN of a valid row is 0 * inf: p too small for float32, q exactly 0.
    return torch.stack(
        [f.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(0, m)
         for f, m in zip(found, most, strict=True)], -1,
    )  # fmt: skip

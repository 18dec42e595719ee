"""The torch backend: eager, chunked by rows, no full sort. The fallback on every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd_probe.kernels.stats import PositionStats

CHUNK_ELEMENTS = 2**21  # logits a step holds: 8 MB a float32 temporary
# Exponents are cut here: 1e-38 of the tail's largest term is nothing, 0 * -inf would be NaN, and
# float32 arithmetic below 1e-38 (subnormal numbers) is several times slower.
LEAST = -87.0


def position_stats(
    logits: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """See `ssd_probe.kernels.stats.position_stats`, which has checked the arguments."""
    rows = max(1, CHUNK_ELEMENTS // logits.shape[1])
    parts = []
    for start in range(0, max(len(logits), 1), rows):  # one empty step for N = 0
        step = slice(start, start + rows)
        wanted = None if targets is None else targets[step]
        x = logits[step].float().contiguous()
        parts.append(_chunk(x, top_k, temperatures, wanted))
    return PositionStats.concat(parts)


def _chunk(
    x: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """The head (K ranks) in float64, the tail in one float32 pass, then both together."""
    values, ids, edge = _top(x, top_k)  # [n, K], [n, K], [n]
    top = values[:, 0]
    shift = edge.where(edge > -torch.inf, top)  # no tail: any finite shift will do
    sums, weights_at = _tail_sums(x, ids, edge, shift, temperatures)
    below = values.double() - top.double()[:, None]  # [n, K], <= 0
    gap = shift.double() - top.double()  # [n], <= 0
    log_partition, entropy, varentropy, tail_log_mass = _moments(below, gap, *sums)
    at = [
        _log_partition(below / t, gap / t, weight)
        for t, weight in zip(temperatures, weights_at, strict=True)
    ]

    valid = top.isfinite() & sums[0].isfinite()

    def column(values: Tensor) -> Tensor:
        return values.float().masked_fill(~valid.view(-1, *[1] * (values.ndim - 1)), torch.nan)

    missing = (0, max(0, top_k - x.shape[1]))
    ids = ids.masked_fill(~(values > -torch.inf) | ~valid[:, None], -1)
    stats = PositionStats(
        max_logit=column(top),
        log_partition=column(log_partition),
        entropy=column(entropy),
        varentropy=column(varentropy),
        tail_log_mass=column(tail_log_mass),
        top_logits=column(pad(values, missing, value=-torch.inf)),
        top_ids=pad(ids, missing, value=-1).int(),
        valid=valid,
        temperatures=temperatures,
        log_partition_at=column(torch.stack(at, -1) if at else x.new_empty(len(x), 0)),
    )
    if targets is not None:
        below_max = x.gather(-1, targets[:, None])[:, 0].double() - top.double()
        stats.target_logprob = column(below_max - log_partition)
        stats.target_rank = _target_rank(x, targets, ids).masked_fill(~valid, -1).int()
    return stats


def _moments(
    below: Tensor, gap: Tensor, weight: Tensor, weight_y: Tensor, weight_yy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_partition, entropy, varentropy and tail_log_mass [n] from head and tail, float64.

    `below` [n, K] = z - max of the head; the tail's sums are relative to its own largest logit,
    `gap` [n] below the max, so that a tail of 1e-30 is as accurate as any other.
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


def _top(x: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Top values and ids [n, min(K, V)] by (value desc, id asc), and the next value [n] or -inf."""
    size = x.shape[1]
    k = min(top_k, size)
    found, ids = x.topk(min(k + 1, size))
    edge = found[:, k] if size > k else found.new_full((len(x),), -torch.inf)
    values, ids = found[:, :k], ids[:, :k]

    # topk orders equal values as it likes: by id first, then stably by value.
    by_id = ids.argsort(-1)
    values, order = values.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, by_id).gather(-1, order)

    # And of the values equal to the last rank's it keeps any: take the lowest ids.
    tied = ((edge == values[:, -1]) & edge.isfinite()).nonzero()[:, 0]
    if len(tied):
        ids[tied] = _lowest_tied_ids(x[tied], values[tied], ids[tied])
    return values, ids, edge


def _lowest_tied_ids(x: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """`ids` [n, K] with the slots of the last rank's value given to the lowest ids that have it."""
    cut = values[:, -1:]
    row, token = (x == cut).nonzero(as_tuple=True)  # by row, then by id
    rows = torch.arange(len(x), device=x.device)
    nth = torch.arange(len(row), device=x.device) - torch.searchsorted(row, rows)[row]
    slot = (values > cut).sum(-1)[row] + nth
    fits = slot < ids.shape[1]
    ids = ids.clone()
    ids[row[fits], slot[fits]] = token[fits]
    return ids


def _tail_sums(
    x: Tensor, ids: Tensor, edge: Tensor, shift: Tensor, temperatures: tuple[float, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """Sums [n] outside `ids`, y = x - shift: [e^y, y e^y, y^2 e^y], and [e^(y / T) for each T]."""
    y = (x - shift[:, None]).scatter_(-1, ids, -torch.inf)  # [n, V]
    weights_at = [(y / t).clamp_(min=LEAST).exp_().sum(-1) for t in temperatures]
    w = y.clamp_(min=LEAST).exp()
    sums = [w.sum(-1), w.mul_(y).sum(-1), w.mul_(y).sum(-1)]
    some = edge > -torch.inf
    return [s.double() * some for s in sums], [s.double() * some for s in weights_at]


def _target_rank(x: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
    """Rank [n], from 1, of each target by (value desc, id asc); only rare ones cost a pass."""
    hit = ids == targets[:, None]
    rank = hit.int().argmax(-1) + 1
    rare = (~hit.any(-1)).nonzero()[:, 0]
    if len(rare):
        x, target = x[rare], targets[rare, None]
        value = x.gather(-1, target)
        first = torch.arange(x.shape[1], device=x.device) < target
        rank[rare] = ((x > value) | ((x == value) & first)).sum(-1) + 1
    return rank

"""The torch backend: eager, chunked by rows, no full sort. The fallback on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_probe.kernels.closing import close, target_fields
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
    """The head (K ranks) exactly, the tail in one float32 pass, then both together."""
    values, ids, edge = _top(x, top_k)  # [n, K], [n, K], [n]
    shift = edge.where(edge > -torch.inf, values[:, 0])  # no tail: any finite shift will do
    sums, sums_at = _tail_sums(x, ids, edge, shift, temperatures)
    stats = close(values, ids, shift, sums, sums_at, top_k, temperatures)
    if targets is not None:
        target_fields(stats, x, targets)
    return stats


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
) -> tuple[Tensor, Tensor]:
    """Sums outside `ids`, y = x - shift: of e^y, y e^y, y^2 e^y [n, 3], and of e^(y / T)."""
    y = (x - shift[:, None]).scatter_(-1, ids, -torch.inf)  # [n, V]
    at = [(y / t).clamp_(min=LEAST).exp_().sum(-1) for t in temperatures]
    w = y.clamp_(min=LEAST).exp()
    sums = [w.sum(-1), w.mul_(y).sum(-1), w.mul_(y).sum(-1)]
    some = (edge > -torch.inf)[:, None]
    sums_at = torch.stack(at, -1) if at else x.new_empty(len(x), 0)
    return torch.stack(sums, -1).double() * some, sums_at.double() * some

"""The torch backend: eager, chunked by rows, no full sort. The fallback where float64 is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd_probe.kernels.closing import close, target_fields_of
from ssd_probe.kernels.results import PositionStats

CHUNK_ELEMENTS = 2**21  # logits a step holds: 8 MB a float32 temporary
# Exponents are cut here: 1e-38 of the tail's largest term is nothing, 0 * -inf would be NaN, and
# float32 arithmetic below 1e-38 (subnormal numbers) is several times slower.
LEAST = -87.0
HOT = 1e30  # temperatures from here on are divided by in float64


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
        target_fields_of(x, stats, targets)
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
    at = []
    for t in temperatures:
        if t < HOT:
            tempered = y / t
        else:  # float32 has no such t, nor the differences that it does not make small
            tempered = (x.double() - shift[:, None]).scatter_(-1, ids, -torch.inf) / t
        at.append(tempered.clamp_(min=LEAST).exp_().sum(-1).double())
    w = y.clamp_(min=LEAST).exp()
    sums = [w.sum(-1), w.mul_(y).sum(-1), w.mul_(y).sum(-1)]
    some = (edge > -torch.inf)[:, None]
    sums_at = torch.stack(at, -1) if at else x.new_empty(len(x), 0, dtype=torch.float64)
    return torch.stack(sums, -1).double() * some, sums_at * some


def divergences(x: Tensor, y: Tensor) -> Tensor:
    """KL(p||q), KL(q||p), JS and TV [N, 4] float64 of p = softmax(x), q = softmax(y), both [N, V].

    With d = log q - log p, KL(p||q) = sum p (e^d - 1 - d): no term is negative, so the error is
    relative to the KL. See `ssd_probe.kernels.pair.pair_stats`.
    """
    # Forty float64 temporaries: 2.6 times as fast on a CPU where they fit in its cache.
    rows = max(1, (2**17 if x.device.type == "cpu" else CHUNK_ELEMENTS) // x.shape[1])
    starts = range(0, max(len(x), 1), rows)  # one empty step for N = 0
    return torch.cat([_divergences(x[i : i + rows], y[i : i + rows]) for i in starts])


def _divergences(x: Tensor, y: Tensor) -> Tensor:
    log_p, log_q = x.double().log_softmax(-1), y.double().log_softmax(-1)  # [n, V]
    d = (log_q - log_p).nan_to_num_(nan=0, posinf=torch.inf, neginf=-torch.inf)  # neither has it
    p, q = log_p.exp(), log_q.exp()
    near = d.abs() <= 1
    e = d.where(near, 0).expm1()  # q = p (1 + e)
    difference = (p * e).where(near, q - p)
    # Beyond |d| = 1 nothing cancels. A token that p lacks adds q to KL(p||q), inf to KL(q||p).
    kl = (p * (e - d)).where(near, difference - (p * d).where(d < torch.inf, 0))
    kl = kl.where(d > -torch.inf, torch.inf)
    lk = (p * ((1 + e) * d - e)).where(near, (q * d).where(d > -torch.inf, 0) - difference)
    lk = lk.where(d < torch.inf, torch.inf)
    js_near = p * ((1 + e) * d - (2 + e) * (e / 2).log1p()) / 2
    ratio = (-d.abs()).exp()
    far = (1 + ratio) * (math.log(2) - ratio.log1p()) - ratio * d.abs().clamp(max=1e3)
    js = js_near.where(near, torch.maximum(p, q) / 2 * far)
    sums = [_row_sum(element) for element in (kl, lk, js, difference.abs_().div_(2))]
    most = (torch.inf, torch.inf, math.log(2), 1.0)
    return torch.stack([s.clamp(0, m) for s, m in zip(sums, most, strict=True)], -1)


def _row_sum(element: Tensor) -> Tensor:
    """Sum over V [n], in parts: torch splits one long row over threads, and so rounds it apart."""
    parts = [part.sum(-1) for part in element.split(16_384, 1)]
    return torch.stack(parts, -1).sum(-1)

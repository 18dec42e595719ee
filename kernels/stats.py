"""Per-position statistics of next-token logits: the one entry point."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssd_probe.decoding import GREEDY_BELOW
from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import run
from ssd_probe.kernels.op import traced
from ssd_probe.kernels.results import PositionStats

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IGNORED = -100  # the target of a position that has none, as in torch's cross entropy


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

    `logits` [..., V] float32, bfloat16 or float16 (-inf entries are legal), of N rows in all, which
    come back as [N] in the order of `logits.flatten(0, -2)`; `top_k` = K ranks kept;
    `temperatures` to give `log_partition_at`; `targets` [...] ids for `target_logprob` and
    `target_rank`, -100 where a row has none: NaN and -1; columns >= `vocab_size` (padding of the
    matrix) are not part of p.
    `backend`: "triton", "cpu" (numba), "torch", or "auto": see `kernels/backends.py`.

    The host does not wait for a GPU. So targets on one are not looked at before: an id outside
    0..V-1 counts as -100 there, and is refused elsewhere. Nothing here has a gradient.

    Errors: `UserError` for a wrong kind, shape, dtype, range or backend, and for logits whose
    gradient is recorded.
    Source: design section 2; `kernels/reference.py` has the formulas.
    """
    check_logits("logits", logits)
    top_k, temperatures, targets = check(
        logits.shape, top_k, temperatures, targets, vocab_size, logits.device
    )
    if torch.compiler.is_compiling():
        return traced(logits, top_k, temperatures, targets, vocab_size, backend)
    return run(logits, top_k, temperatures, targets, vocab_size, backend)


def check_logits(name: str, logits: Any) -> None:
    """Raise `UserError` unless this is a tensor [..., V] that the kernels read."""
    if not isinstance(logits, Tensor):
        raise UserError(f"{name}: a {type(logits).__name__}; must be a tensor [..., V]")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise UserError(f"{name} of shape {tuple(logits.shape)}: must be [..., V] with V >= 1")
    if logits.dtype not in DTYPES:
        raise UserError(f"{name} of {logits.dtype}: must be float32, bfloat16 or float16")
    check_gradient(name, logits)


def check_gradient(name: str, tensor: Tensor) -> None:
    """Raise `UserError` where a gradient is wanted, of which there is none."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise UserError(
            f"{name}: its gradient is recorded, and the statistics have none; "
            "call under torch.no_grad(), or give .detach() of it"
        )


def check(
    shape: Sequence[int],
    top_k: int,
    temperatures: Sequence[float],
    targets: Tensor | None,
    vocab_size: int | None,
    device: torch.device,
) -> tuple[int, tuple[float, ...], Tensor | None]:
    """`top_k`, `temperatures` and `targets` [N] int64 on `device`, for logits of this shape.

    Errors: `UserError` where `position_stats` cannot take them.
    """
    columns = shape[-1]
    top_k = _integer("top_k", top_k, "the ranks to keep")
    if top_k < 1:
        raise UserError(f"top_k = {top_k}: must be an integer >= 1, the ranks to keep")
    if vocab_size is not None:
        vocab_size = _integer("vocab_size", vocab_size, "the columns that are tokens")
        if not 1 <= vocab_size <= columns:
            raise UserError(f"vocab_size = {vocab_size}: must be in 1..{columns}, the columns")
    size = vocab_size or columns
    targets = _checked_targets(targets, shape[:-1], size, device)
    return top_k, _checked_temperatures(temperatures), targets


def _integer(name: str, value: Any, meaning: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} = {value!r}: must be an integer, {meaning}") from None


def _checked_temperatures(temperatures: Any) -> tuple[float, ...]:
    try:
        found = tuple(map(float, temperatures)) if not isinstance(temperatures, str) else None
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise UserError(f"temperatures = {temperatures!r}: must be numbers, as (0.7, 1.6)")
    for t in found:
        if not (math.isfinite(t) and t >= GREEDY_BELOW):
            raise UserError(f"temperatures: {t}: must be finite and >= {GREEDY_BELOW}")
    return found


def _checked_targets(
    targets: Any, shape: Sequence[int], size: int, device: torch.device
) -> Tensor | None:
    if targets is None:
        return None
    if not isinstance(targets, Tensor):
        raise UserError(f"targets: a {type(targets).__name__}; must be a tensor of integers")
    integers = not (targets.is_floating_point() or targets.is_complex())
    if tuple(targets.shape) != tuple(shape) or not integers or targets.dtype == torch.bool:
        raise UserError(
            f"targets of shape {tuple(targets.shape)}, {targets.dtype}: "
            f"must be integers of shape {tuple(shape)}, one for each row of logits"
        )
    targets = targets.to(torch.int64).reshape(-1)
    if _seen_by_host(targets):
        outside = (targets != IGNORED) & ((targets < 0) | (targets >= size))
        if outside.any():
            wrong = targets[outside][0].item()
            raise UserError(f"targets: {wrong}: must be ids in 0..{size - 1}, or {IGNORED}: none")
    return targets.to(device)


def _seen_by_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()

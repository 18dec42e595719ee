"""Per-position statistics of next-token logits: the one entry point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_probe.decoding import GREEDY_BELOW
from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose
from ssd_probe.kernels.results import PositionStats

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    # Imported when called: Triton and numba take time, and may be missing.
    if name == "triton":
        from ssd_probe.kernels.gpu.stats import position_stats as run
    elif name == "cpu":
        from ssd_probe.kernels.cpu.stats import position_stats as run
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

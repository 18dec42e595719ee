"""`position_stats` as the operator `ssd_probe::position_stats`: what `torch.compile` sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd_probe.kernels.backends import run
from ssd_probe.kernels.fields import RANKED, REQUIRED
from ssd_probe.kernels.results import PositionStats

FIELDS = (*REQUIRED, "log_partition_at", "target_logprob", "target_rank")


def _position_stats(
    logits: Tensor,
    top_k: int,
    temperatures: list[float],
    targets: Tensor | None,
    vocab_size: int | None,
    backend: str,
) -> list[Tensor]:
    """The tensors of `FIELDS`, the last two only with `targets`; arguments as after `check`."""
    stats = run(logits, top_k, tuple(temperatures), targets, vocab_size, backend)
    found = [getattr(stats, name) for name in FIELDS]
    return [tensor.clone() for tensor in found if tensor is not None]  # several share memory


# Types as strings ("from __future__") are not read by `custom_op`.
_SCHEMA = (
    "(Tensor logits, int top_k, float[] temperatures, Tensor? targets, int? vocab_size, "
    "str backend) -> Tensor[]"
)
_op = torch.library.custom_op(
    "ssd_probe::position_stats", _position_stats, mutates_args=(), schema=_SCHEMA
)


@_op.register_fake
def _shapes(logits, top_k, temperatures, targets, vocab_size, backend):
    n = math.prod(logits.shape[:-1])
    widths = dict.fromkeys(RANKED, (top_k,)) | {"log_partition_at": (len(temperatures),)}
    dtypes = {"top_ids": torch.int32, "target_rank": torch.int32, "valid": torch.bool}
    names = FIELDS if targets is not None else FIELDS[:-2]
    return [
        logits.new_empty((n, *widths.get(name, ())), dtype=dtypes.get(name, torch.float32))
        for name in names
    ]


def traced(
    logits: Tensor,
    top_k: int,
    temperatures: tuple[float, ...],
    targets: Tensor | None,
    vocab_size: int | None,
    backend: str,
) -> PositionStats:
    """`position_stats` as one operator of the graph that is being traced."""
    found = _op(logits, top_k, list(temperatures), targets, vocab_size, backend)
    fields = dict(zip(FIELDS, found, strict=False))
    return PositionStats(temperatures=temperatures, **fields)

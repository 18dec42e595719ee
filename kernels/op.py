"""`position_stats` as the operator `ssd_probe::position_stats`: what `torch.compile` sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssd_probe.kernels.backends import run
from ssd_probe.kernels.results import PositionStats

FIELDS = ("max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass", "top_logits",
          "top_ids", "valid", "log_partition_at", "target_logprob", "target_rank")  # fmt: skip


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
    real, whole = torch.float32, torch.int32
    shapes = [((n,), real)] * 5 + [((n, top_k), real), ((n, top_k), whole), ((n,), torch.bool)]
    shapes.append(((n, len(temperatures)), real))
    if targets is not None:
        shapes += [((n,), real), ((n,), whole)]
    return [logits.new_empty(shape, dtype=dtype) for shape, dtype in shapes]


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

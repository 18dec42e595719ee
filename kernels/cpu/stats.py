"""The CPU backend: numba adds logits to the heads and tails of their rows, and closes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd_probe.kernels.cpu import finish, head, rows, tail
from ssd_probe.kernels.cpu.logits import flat
from ssd_probe.kernels.cpu.threads import in_threads
from ssd_probe.kernels.fields import SCALARS
from ssd_probe.kernels.results import PositionStats

BLOCK = tail.SEGMENT  # chunks of a vocabulary are best a multiple of it


class State:
    """Head and tail of N rows, from the chunks of logits seen so far."""

    def __init__(self, size: int, top_k: int, temperatures: tuple[float, ...]) -> None:
        self.temperatures = temperatures
        self._t = np.array(temperatures, np.float64)
        self._heads = np.full((size, top_k), head.ABSENT, np.int64)
        self._tails = np.zeros((size, 4 + len(temperatures)))  # shift, then sums
        self._tails[:, 0] = -np.inf
        self._found = (
            np.empty((len(SCALARS), size), np.float32),
            np.empty((size, len(temperatures)), np.float32),
            np.empty((size, top_k), np.float32),
            np.empty((size, top_k), np.int32),
            np.empty(size, np.bool_),
        )

    def update(self, logits: Tensor, first_id: int = 0) -> None:
        """Add logits [N, c] of the ids from `first_id` on, in id order."""
        x, stride = flat(logits)

        def work(begin: int, end: int) -> None:
            rows.add(x, stride, logits.shape[1], first_id, self._t, self._heads, self._tails,
                     begin, end)  # fmt: skip

        in_threads(work, len(logits))

    def finish(self) -> PositionStats:
        """The statistics of what was added, without targets."""

        def work(begin: int, end: int) -> None:
            finish.close(self._heads, self._tails, self._t, *self._found, begin, end)

        in_threads(work, len(self._heads))
        return self._stats()

    def run(self, logits: Tensor, targets: Tensor | None) -> PositionStats:
        """The statistics of these logits [N, V] alone, with targets [N]."""
        x, stride = flat(logits)
        ids = np.empty(0, np.int64) if targets is None else targets.contiguous().numpy()
        log_p, rank = np.empty(len(ids), np.float32), np.empty(len(ids), np.int32)

        def work(begin: int, end: int) -> None:
            finish.measure(x, stride, logits.shape[1], self._t, self._heads, self._tails, ids,
                           *self._found, log_p, rank, begin, end)  # fmt: skip

        in_threads(work, len(logits))
        stats = self._stats()
        if targets is not None:
            stats.target_logprob, stats.target_rank = map(torch.from_numpy, (log_p, rank))
        return stats

    def _stats(self) -> PositionStats:
        numbers, at, top_logits, top_ids, valid = map(torch.from_numpy, self._found)
        scalars: dict[str, Any] = dict(zip(SCALARS, numbers, strict=True))
        return PositionStats(
            **scalars, top_logits=top_logits, top_ids=top_ids, valid=valid,
            temperatures=self.temperatures, log_partition_at=at,
        )  # fmt: skip


def count_before(
    logits: Tensor, first_id: int, low: Tensor, high: Tensor, targets: Tensor, counts: Tensor
) -> None:
    """Add to `counts` [N] how many of the logits [N, c] rank before the target.

    What lies between `low` and `high` [N] equals the target's logit: it is before by a lower id.
    """
    x, stride = flat(logits)
    arrays = low.numpy(), high.numpy(), targets.numpy(), counts.numpy()

    def work(begin: int, end: int) -> None:
        finish.count_before(x, stride, logits.shape[1], first_id, *arrays, begin, end)

    in_threads(work, len(logits))


def position_stats(
    logits: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """See `ssd_probe.kernels.stats.position_stats`, which has checked the arguments."""
    return State(len(logits), top_k, temperatures).run(logits, targets)

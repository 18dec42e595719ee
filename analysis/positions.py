"""A stated, seeded subset of a probe's positions, with their labels, read part by part."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ssd_probe.analysis.frames import stats_of
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import PositionStats
from ssd_probe.table import Probe

_KEYS = ["sample_id", "position", "token_id"]
_STATISTICS = [
    "max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass", "valid",
    "top_ids", "top_logits",
]  # fmt: skip


class Sample(NamedTuple):
    """n positions drawn from a probe of `of`, in its order; those not valid are among them."""

    stats: PositionStats
    labels: NDArray[np.str_]  # [n]
    rows: NDArray[np.int64]  # [n] row numbers in the probe
    of: int


def draw_positions(probe: Probe, rule: Any, positions: int = 0, seed: int = 0) -> Sample:
    """`positions` of the probe without replacement, each as likely (0: all), labelled by `rule`.

    rule: has `label(frame)`, on this probe. Memory: one part, and 8 K bytes a position drawn.
    Raises UserError for a probe without rows and as the rule.
    """
    total = len(probe)
    if not total:
        raise UserError(f"{probe.path}: the probe holds no positions")
    if positions < 0:
        raise UserError(f"positions = {positions}: must be at least 0 (0 = all)")
    rows = np.arange(total)
    if 0 < positions < total:
        rows = np.sort(np.random.default_rng(seed).choice(total, positions, replace=False))
    stats, labels = [], []
    for frame in _picked(probe, rows, [*_KEYS, *_STATISTICS]):
        stats.append(stats_of(frame))
        labels.append(np.asarray(rule.label(frame), dtype=str))
    return Sample(_joined(stats), np.concatenate(labels), rows, total)


def same_positions(base: Probe, other: Probe, sample: Sample) -> Sample:
    """The positions of `sample`, drawn from `base`, in another model's probe of the same texts.

    Raises UserError when the two hold other texts, or ids that stand for other tokens.
    """
    for key, what in (("tokenizer", "tokenizers"), ("head_rows", "numbers of output rows")):
        if base.record.get(key) != other.record.get(key):
            raise UserError(f"{base.path} and {other.path} have different {what}: not comparable")
    if len(base) != len(other):
        raise UserError(
            f"{other.path}: {len(other)} positions, {base.path} has {len(base)}: probe both alike"
        )
    keys = pd.concat(_picked(base, sample.rows, _KEYS), ignore_index=True)
    parts = list(_picked(other, sample.rows, [*_KEYS, *_STATISTICS]))
    found = pd.concat([part[_KEYS] for part in parts], ignore_index=True)
    for name in _KEYS:
        unequal = np.flatnonzero(keys[name].to_numpy() != found[name].to_numpy())
        if len(unequal):
            row = sample.rows[unequal[0]]
            raise UserError(f"{other.path}: {name} differs from {base.path} at row {row}")
    return sample._replace(stats=_joined([stats_of(part) for part in parts]))


def select(stats: PositionStats, rows: ArrayLike | Tensor) -> PositionStats:
    """The statistics of some rows: a bool mask [N] or row numbers."""
    index = torch.as_tensor(rows)
    taken: dict[str, Any] = {name: getattr(stats, name)[index] for name in _by_row(stats)}
    return dataclasses.replace(stats, **taken)


def _joined(parts: Sequence[PositionStats]) -> PositionStats:
    """The rows of all parts. `PositionStats.concat` wants what saved tables leave out."""
    names = _by_row(parts[0])
    whole: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts]) for name in names}
    return dataclasses.replace(parts[0], **whole)


def _by_row(stats: PositionStats) -> list[str]:
    """The fields that have an entry for each row."""
    fields = vars(stats).items()
    return [
        name for name, value in fields if isinstance(value, Tensor) and len(value) == len(stats)
    ]


def _picked(
    probe: Probe, rows: NDArray[np.int64], columns: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """The rows (ascending numbers) of a probe, a part at a time."""
    begin = 0
    for frame in probe.batches(columns):
        first, last = np.searchsorted(rows, [begin, begin + len(frame)])
        if last > first:
            yield frame.iloc[rows[first:last] - begin]
        begin += len(frame)

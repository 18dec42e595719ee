"""A stated, seeded subset of a probe's positions, with their labels, read part by part."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.frames import stats_of
from ssd_probe.errors import UserError
from ssd_probe.kernels.fields import REQUIRED
from ssd_probe.kernels.results import PositionStats
from ssd_probe.probing.table import Probe, require_comparable

_KEYS = ["sample_id", "position", "token_id"]


class Sample(NamedTuple):
    """n positions drawn from a probe of `of`, in its order; those not valid are among them."""

    stats: PositionStats
    labels: NDArray[np.str_]  # [n]
    rows: NDArray[np.int64]  # [n] row numbers in the probe
    of: int
    rule: Any = None  # that labelled them
    seed: int = 0  # that drew them


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
    for frame in _picked(probe, rows, [*_KEYS, *REQUIRED]):
        stats.append(stats_of(frame))
        labels.append(np.asarray(rule.label(frame), dtype=str))
    return Sample(PositionStats.concat(stats), np.concatenate(labels), rows, total, rule, seed)


def same_positions(base: Probe, other: Probe, sample: Sample) -> Sample:
    """The positions of `sample`, drawn from `base`, in another model's probe of the same texts.

    Raises UserError when the two hold other texts, or ids that stand for other tokens.
    """
    require_comparable(base, other)
    if len(base) != len(other):
        raise UserError(
            f"{other.path}: {len(other)} positions, {base.path} has {len(base)}: probe both alike"
        )
    keys = pd.concat(_picked(base, sample.rows, _KEYS), ignore_index=True)
    parts = list(_picked(other, sample.rows, [*_KEYS, *REQUIRED]))
    found = pd.concat([part[_KEYS] for part in parts], ignore_index=True)
    for name in _KEYS:
        unequal = np.flatnonzero(keys[name].to_numpy() != found[name].to_numpy())
        if len(unequal):
            row = sample.rows[unequal[0]]
            raise UserError(f"{other.path}: {name} differs from {base.path} at row {row}")
    return sample._replace(stats=PositionStats.concat([stats_of(part) for part in parts]))


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

"""Did T_eval gain leverage: how far it opens the forks before it loosens the locks.

The precision-exploration conflict (paper, section 2): raising T_eval explores forks and lets
distractors back in at locks. A model gives T_eval leverage where the forks can be opened wide at a
price at the locks that was paid anyway.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from ssd_probe.analysis.curves import TEMPERATURES, Positions
from ssd_probe.analysis.frames import require_exact, stats_of
from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError

REFERENCE = 1.0  # T_eval at which the base's locks set what may be paid
LEAST_SLIP = 1e-3  # that is allowed in any case: 0 would let a single position decide
_KEYS = ["label", "problem_id", "temperature"]
_BATCH_ELEMENTS = 2_000_000

Floats = NDArray[np.float64]


class Leverage(NamedTuple):
    """Fork entropy of each model at the highest T_eval at which its locks are tight enough."""

    slip: float  # allowed, mean mass off the top token at locks: the base's at T = REFERENCE
    base_temperature: float
    tuned_temperature: float
    base: float  # mean entropy after truncation at forks, nats
    tuned: float
    difference: float
    low: float  # 95 % bootstrap over problems
    high: float
    problems: int
    highest: float  # temperature tried


def conflict_totals(
    base: Positions,
    tuned: Positions,
    labels: ArrayLike,
    problems: ArrayLike,
    temperatures: Sequence[float] = TEMPERATURES,
    top_k: int = PAPER_TRAIN.top_k,
    top_p: float = PAPER_TRAIN.top_p,
) -> pd.DataFrame:
    """What each T_eval does at locks and at forks, summed by problem; sums of parts just add.

    Slip at a lock: 1 - probability of its likeliest token after temperature, top-k and top-p.
    Opening at a fork: entropy of what is drawn from, nats. base, tuned: probe frames or their
    `PositionStats`; labels, problems: [N]. Index label, problem_id, temperature; columns positions,
    base, tuned. Positions not valid in both are left out.
    Raises UserError where the probes' ranks cannot tell what a decoding leaves.
    """
    kinds = np.asarray(labels)
    decodings = [Decoding(float(t), top_k, top_p) for t in temperatures]
    sides = []
    for frame in (base, tuned):
        stats = stats_of(frame)
        require_exact(stats, *decodings)
        left = stats.truncated(decodings)
        slip, opening = 1 - left.top1.numpy(), left.entropy.numpy()
        sides.append(np.where((kinds == LOCK)[:, None], slip, opening))  # [N, T]
    known = np.isfinite(sides[0][:, 0] + sides[1][:, 0]) & ((kinds == LOCK) | (kinds == FORK))
    wide = pd.DataFrame(np.hstack(sides)[known])  # both sides' temperatures
    grouped = wide.groupby([kinds[known], np.asarray(problems)[known]])
    sums, counts = grouped.sum().rename_axis(_KEYS[:2]), grouped.size()
    count = len(decodings)
    tables = {
        side: columns.set_axis([d.temperature for d in decodings], axis=1).stack()
        for side, columns in (("base", sums.iloc[:, :count]), ("tuned", sums.iloc[:, count:]))
    }
    table = pd.DataFrame(tables).rename_axis(_KEYS)
    return table.assign(positions=np.repeat(counts.to_numpy(), count))


def leverage(
    parts: pd.DataFrame | Iterable[pd.DataFrame], *, n_resamples: int = 2000, seed: int = 0
) -> Leverage:
    """How far T_eval opens the forks of each model at the same price at the locks.

        T* = largest T with slip(T') <= max(slip_base(REFERENCE), LEAST_SLIP) for all T' <= T
        leverage = opening(T*)

    slip and opening: means over all locks and forks, linear between the temperatures of the grid.
    T* is at most the highest temperature tried, so a leverage found there is a lower bound.
    parts: of `conflict_totals`, of one frame or of the parts of a probe.
    Raises UserError without a lock or a fork, or where the grid leaves REFERENCE out.
    """
    tables = [parts] if isinstance(parts, pd.DataFrame) else list(parts)
    table = pd.concat(tables).groupby(level=_KEYS).sum()
    for label in (LOCK, FORK):
        if label not in table.index.unique("label"):
            raise UserError(f"leverage needs locks and forks: there is no {label}")
    temperatures = np.sort(table.index.unique("temperature").to_numpy(float))
    if not temperatures[0] <= REFERENCE <= temperatures[-1]:
        raise UserError(f"leverage needs temperatures on both sides of {REFERENCE:g}")
    sums = _cube(table, temperatures)  # [problems, 2 labels, 3, T]
    slip, reach, opening = _reach(sums.sum(0)[None], temperatures)
    low, high = _interval(sums, temperatures, n_resamples, seed)
    return Leverage(
        slip=float(slip[0]),
        base_temperature=float(reach[0, 0]),
        tuned_temperature=float(reach[0, 1]),
        base=float(opening[0, 0]),
        tuned=float(opening[0, 1]),
        difference=float(opening[0, 1] - opening[0, 0]),
        low=low,
        high=high,
        problems=len(sums),
        highest=float(temperatures[-1]),
    )


def _cube(table: pd.DataFrame, temperatures: Floats) -> Floats:
    """Sums as [problems, (lock, fork), (positions, base, tuned), T]; 0 where there are none."""
    problems = table.index.unique("problem_id")
    full = pd.MultiIndex.from_product([problems, [LOCK, FORK], temperatures])
    ordered = table.reorder_levels(["problem_id", "label", "temperature"]).reindex(full).fillna(0)
    values = ordered[["positions", "base", "tuned"]].to_numpy(float)
    return values.reshape(len(problems), 2, len(temperatures), 3).swapaxes(2, 3)


def _reach(sums: Floats, temperatures: Floats) -> tuple[Floats, Floats, Floats]:
    """Price [B], T* [B, 2 models] and opening there [B, 2], from sums [B, 2, 3, T]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[:, :, 1:] / sums[:, :, :1]  # [B, label, model, T]
    slips, openings = means[:, 0], means[:, 1]  # [B, model, T]
    at = np.interp(REFERENCE, temperatures, np.arange(len(temperatures)))
    price = np.maximum(_between(slips[:, 0], np.full(len(slips), at)), LEAST_SLIP)
    over = slips > price[:, None, None] * (1 + 1e-9)
    first = np.where(over.any(-1), over.argmax(-1), len(temperatures) - 1)  # first that is too much
    before = np.maximum(first - 1, 0)
    left, right = (np.take_along_axis(slips, i[..., None], -1)[..., 0] for i in (before, first))
    gap = right - left
    part = np.divide(price[:, None] - left, gap, out=np.ones_like(gap), where=gap > 0).clip(0, 1)
    index = np.where(over.any(-1), before + part, first)
    reach = np.interp(index, np.arange(len(temperatures)), temperatures)
    return price, reach, _between(openings, index)


def _between(values: Floats, index: Floats) -> Floats:
    """values [..., T] at a fractional index [...], linearly."""
    low = np.floor(index).astype(int)
    high = np.minimum(low + 1, values.shape[-1] - 1)
    at_low, at_high = (np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (low, high))
    return at_low + (index - low) * (at_high - at_low)


def _interval(
    sums: Floats, temperatures: Floats, n_resamples: int, seed: int
) -> tuple[float, float]:
    """Of the difference, over resampled problems; NaN for a single one."""
    problems = len(sums)
    if problems < 2:
        return float("nan"), float("nan")
    flat = sums.reshape(problems, -1)

    def difference(drawn: NDArray, axis: int) -> Floats:
        drawn = np.atleast_2d(np.moveaxis(drawn, axis, -1))
        offsets = problems * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=problems * len(drawn))
        resampled = counts.reshape(len(drawn), problems) @ flat
        opening = _reach(resampled.reshape(-1, *sums.shape[1:]), temperatures)[2]
        return opening[:, 1] - opening[:, 0]

    ends = bootstrap(
        (np.arange(problems),),
        difference,
        n_resamples=n_resamples,
        batch=max(1, _BATCH_ELEMENTS // problems),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(ends.low), float(ends.high)

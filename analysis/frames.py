"""Probe frames as arrays: their statistics, what is refused about them, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

if TYPE_CHECKING:  # figures and pass@k come through here and must not wait for torch
    from ssd_probe.kernels.results import PositionStats

T = TypeVar("T")


class Missing(NamedTuple):
    """In the place of data that there are not: why, in one line."""

    why: str


def attempt(make: Callable[[], T]) -> T | Missing:
    """What `make` returns, or `Missing` with the line of the UserError that it raises."""
    try:
        return make()
    except UserError as error:
        return Missing(str(error))


def stats_of(frame: pd.DataFrame | PositionStats) -> PositionStats:
    """The `PositionStats` of a probe frame: its columns as arrays, `top_*` stacked to [N, K].

    What is `PositionStats` already comes back, so that a frame need not be read twice.
    Raises UserError for a missing column, no rows, or rows with different K.
    """
    from ssd_probe.kernels.fields import RANKED, REQUIRED
    from ssd_probe.kernels.results import PositionStats

    if isinstance(frame, PositionStats):
        return frame
    require_columns(frame, REQUIRED, "the probe")
    return PositionStats.from_columns({
        name: stacked(frame, name) if name in RANKED else frame[name].to_numpy()
        for name in REQUIRED
    })  # fmt: skip


def require_exact(stats: PositionStats, *decodings: Decoding) -> None:
    """UserError where the kept ranks cannot tell what one leaves, at over 1 % of positions.

    A top-k above the probe's K, or none at T != 1, needs the vocabulary; a few ties at the k-th
    logit that may go on beyond rank K are let pass.
    """
    ranks = stats.top_ids.shape[1]
    valid = int(stats.valid.sum())
    # Within the ranks the answer is the same at each temperature.
    keys = {d.top_k if 0 < d.top_k <= ranks and not d.is_greedy else d: d for d in decodings}
    for decoding in keys.values():
        inexact = valid - int(stats.support_exact(decoding).sum())
        if inexact > 0.01 * valid:
            raise UserError(
                f"{decoding}: its support is not within the probe's {ranks} ranks at {inexact} of "
                f"{valid} positions: use a smaller top-k, or probe with more ranks"
            )


def stacked(frame: pd.DataFrame, name: str) -> NDArray:
    """A column of K-long rows as one array [N, K], read-only. Raises UserError where K differs."""
    column = frame[name]
    if isinstance(column.dtype, pd.ArrowDtype):  # of `Probe.batches`: one block already
        whole = pa.chunked_array(column.array.__arrow_array__()).combine_chunks()
        return whole.flatten().to_numpy().reshape(-1, column.dtype.pyarrow_dtype.list_size)
    try:
        return np.asarray(column.tolist(), np.int32 if name.endswith("_ids") else np.float32)
    except ValueError:
        raise UserError(f"the probe's '{name}' holds rows of different length") from None


def unpacked(frame: pd.DataFrame) -> pd.DataFrame:
    """With an array a row for the ranks, as in `Probe.frame`; other readings hold one block."""
    packed = [name for name in frame if isinstance(frame[name].dtype, pd.ArrowDtype)]
    rows = {name: pd.Series([*stacked(frame, name)], frame.index, object) for name in packed}
    return frame.assign(**rows)


def require_columns(frame: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """UserError unless `frame` has rows and each of the named columns; `what` says whose."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(f"{what} lacks the columns: {', '.join(missing)}")
    if not len(frame):
        raise UserError(f"{what} holds no rows")

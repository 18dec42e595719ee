"""Where the forks are: their rate by syntax node, by segment, by depth into the answer."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK, OPEN
from ssd_probe.analysis.passk import agreed_interval, bootstrap_ratio
from ssd_probe.errors import UserError

WAYS = ("segment", "syntax", "depth")
DEPTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_KEYS = ["by", "group", "problem_id"]
_COUNTS = ["forks", "locks", "opens"]


def label_counts(frame: pd.DataFrame, labels: ArrayLike) -> pd.DataFrame:
    """Positions, forks, locks and open ones of each group and problem; counts of parts just add.

    frame: a probe, or a part of one that holds whole texts; labels: [N], as a rule gives them.
    Index by (one of `WAYS`), group, problem_id. Groups: the segment; the syntax node (positions
    without one are left out); the depth, how many scored tokens of its text come before, from
    `DEPTHS[i-1]` to below `DEPTHS[i]`, named "0-15", "16-31" ... Positions not valid are left out.
    Raises UserError for a missing column, no rows, or another number of labels.
    """
    columns = ["sample_id", "problem_id", "position", "segment", "syntax", "valid"]
    require_columns(frame, columns, "the probe")
    kinds = np.asarray(labels)
    if kinds.shape != (len(frame),):
        raise UserError(f"{len(kinds)} labels for {len(frame)} positions: one each is needed")
    first = frame.groupby("sample_id", sort=False)["position"].transform("min")
    depth = (frame["position"] - first).to_numpy()
    table = pd.DataFrame(
        {
            "problem_id": frame["problem_id"].to_numpy(),
            "segment": frame["segment"].to_numpy(),
            "syntax": frame["syntax"].to_numpy(),
            "depth": np.array(_depth_names())[np.searchsorted(DEPTHS, depth, side="right")],
            "positions": 1,
            "forks": kinds == FORK,
            "locks": kinds == LOCK,
            "opens": kinds == OPEN,
        }
    )[frame["valid"].to_numpy(bool)]
    counts = []
    for way in WAYS:
        named = table[table[way].notna() & (table[way] != "")]
        sums = named.groupby([way, "problem_id"])[["positions", *_COUNTS]].sum()
        counts.append(sums.rename_axis(index=["group", "problem_id"]).assign(by=way).reset_index())
    return pd.concat(counts).set_index(_KEYS)


def fork_rates(
    counts: pd.DataFrame | Iterable[pd.DataFrame], *, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Shares of forks, locks and open positions in each group; of forks and open with intervals.

    counts: of `label_counts`, of one frame or of the parts of a probe. Returns by, group,
    positions, problems, fork_rate, low, high, lock_rate, open_rate, open_low, open_high (95 %
    bootstrap over problems; `agreed_interval` where all have the same share); depths from the
    start on, other groups by falling fork rate.
    Raises UserError without any counts.
    """
    parts = [counts] if isinstance(counts, pd.DataFrame) else list(counts)
    if not parts:
        raise UserError("fork_rates needs the counts of at least one part")
    total = pd.concat(parts).groupby(level=_KEYS).sum()
    rows = []
    for (way, group), part in total.groupby(level=["by", "group"]):
        count = part["positions"]
        forks, opens = (
            _interval(part[kind], count, n_resamples, seed) for kind in ("forks", "opens")
        )
        fork, lock, open_ = (part[kind].sum() / count.sum() for kind in _COUNTS)
        rows.append((way, group, count.sum(), len(part), fork, *forks, lock, open_, *opens))
    ends = ["fork_rate", "low", "high", "lock_rate", "open_rate", "open_low", "open_high"]
    table = pd.DataFrame(rows, columns=["by", "group", "positions", "problems", *ends])
    depths = {name: i for i, name in enumerate(_depth_names())}
    order = np.where(table["by"] == "depth", table["group"].map(depths), -table["fork_rate"])
    way = table["by"].map({name: i for i, name in enumerate(WAYS)})
    return table.iloc[np.lexsort((order, way))].reset_index(drop=True)


def by_segment(rates: pd.DataFrame) -> dict[str, int]:
    """How many positions each segment has, of a `fork_rates`."""
    by = rates[rates["by"] == "segment"]
    return dict(zip(by["group"], map(int, by["positions"]), strict=True))


def _interval(
    kind: pd.Series, count: pd.Series, n_resamples: int, seed: int
) -> tuple[float, float]:
    shares = (kind / count).to_numpy()
    if (shares == shares[0]).all():  # the bootstrap cannot see what was never sampled
        return agreed_interval(shares[0], len(shares), 0.0, 1.0)
    return bootstrap_ratio(kind, count, n_resamples=n_resamples, seed=seed)


def _depth_names() -> list[str]:
    edges = [0, *DEPTHS]
    ranges = [f"{a}-{b - 1}" for a, b in zip(edges, DEPTHS, strict=False)]
    return [*ranges, f"{DEPTHS[-1]}-"]

"""The paper's premise, asked of outcomes: do tail tokens break programs, and head tokens not?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.passk import bootstrap_ratio

BINS = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0)  # edges of the forced token's probability
ALL = "all"
_COLUMNS = ["positions", "problems", "tokens", "runs", "estimate", "low", "high"]


def by_probability(
    table: pd.DataFrame, *, bins: Sequence[float] = BINS, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """P(pass | token) of alternatives by the probability that the model gave them, and by kind.

    table: of `branches`, with `label` (the position's kind) and `weight` (see `choose_positions`);
    original tokens are left out. A token counts as its pass rate times its weight, so an estimate
    is that of all positions of the programs, not of the strata as they were drawn. 95 % bootstrap
    interval over problems (NaN for one problem). One row a kind ("all" first) and bin that has
    tokens: label, least, below (the bin's edges; the last holds 1), positions, problems, tokens,
    runs, estimate, low, high.
    """
    require_columns(table, ["label", "weight", "probability", "original"], "the branches")
    others = table[~table["original"] & (table["runs"] > 0)]
    edges = np.asarray(bins)
    at = np.searchsorted(edges, others["probability"], side="right").clip(1, len(edges) - 1) - 1
    rows = []
    for label in (ALL, *sorted(others["label"].unique())):
        for place in range(len(edges) - 1):
            group = others[(at == place) & ((others["label"] == label) | (label == ALL))]
            if len(group):
                found = _rate(group, n_resamples, seed)
                rows.append((label, edges[place], edges[place + 1], *found))
    return pd.DataFrame(rows, columns=["label", "least", "below", *_COLUMNS])


def by_rank(
    table: pd.DataFrame, *, most: int = 5, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """P(pass | token) by the forced token's rank and the position's kind, with intervals.

    table: as for `by_probability`; originals count here, as rank 1 is mostly they. Ranks above
    `most` are one group, rank `most` + 1, whose tokens are the tail's. Returns label, rank,
    positions, problems, tokens, runs, estimate, low, high.
    """
    require_columns(table, ["label", "weight", "rank", "original"], "the branches")
    known = table[(table["runs"] > 0) & (table["rank"] > 0)]
    groups = known.groupby(["label", known["rank"].clip(upper=most + 1)])
    rows = [(*key, *_rate(group, n_resamples, seed)) for key, group in groups]
    return pd.DataFrame(rows, columns=["label", "rank", *_COLUMNS])


def _rate(group: pd.DataFrame, n_resamples: int, seed: int) -> tuple:
    """The weighted mean of tokens' pass rates, its interval over problems, and the counts."""
    weight = group["weight"].to_numpy(float)
    parts = pd.DataFrame({"passed": weight * group["passes"] / group["runs"], "weight": weight})
    sums = parts.groupby(group["problem_id"]).sum()
    estimate = float(sums["passed"].sum() / sums["weight"].sum())
    ends = bootstrap_ratio(sums["passed"], sums["weight"], n_resamples=n_resamples, seed=seed)
    positions = len(group[["sample_id", "position"]].drop_duplicates())
    return positions, len(sums), len(group), int(group["runs"].sum()), estimate, *ends

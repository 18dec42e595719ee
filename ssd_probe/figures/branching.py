"""What became of programs with another token: P(pass | token) by rank, and by probability."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ssd_probe.analysis.frames import require_columns
from ssd_probe.figures.style import legend_above, new_axes

KINDS: dict[str, dict[str, Any]] = {  # of positions, in this order
    "lock": {"color": "#009E73", "marker": "s", "linestyle": "-"},
    "fork": {"color": "#CC79A7", "marker": "o", "linestyle": "--"},
    "open": {"color": "#56B4E9", "marker": "^", "linestyle": ":"},
    "neither": {"color": "#777777", "marker": "D", "linestyle": "-."},
}
_WIDTH = 0.12  # between the kinds at one rank


def fig_branch_ranks(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """P(pass | forced token) by the token's rank, one line a kind of position, with intervals.

    frame: of `premise.by_rank` (label, rank, positions, estimate, low, high); its highest rank
    stands for all beyond the one before.
    """
    require_columns(frame, ["label", "rank", "positions", "estimate", "low", "high"], "the ranks")
    ax = new_axes(ax)
    most = frame.groupby("label")["positions"].max()  # rank 1 is forced everywhere
    names_of = {kind: f"{kind} ({n:,})" for kind, n in most.items()}
    _lines(ax, frame, frame["rank"].to_numpy(float), names_of)
    ranks = sorted(frame["rank"].unique())
    names = [f"{rank:g}" for rank in ranks]
    if len(ranks) > 1:
        names[-1] = f"> {ranks[-2]:g}"
    ax.set_xticks(ranks, names)
    ax.set(xlabel="rank of the forced token", ylabel="P(pass | token)", ylim=(0, 1.02))
    legend_above(ax, columns=2)
    return ax


def fig_branch_probability(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """P(pass | forced token) by the probability that the model gave it, one line a kind.

    frame: of `premise.by_probability` (label, least, below, positions, estimate, low, high),
    without its rows "all" or with them, which are then drawn in black.
    """
    columns = ["label", "least", "below", "positions", "estimate", "low", "high"]
    require_columns(frame, columns, "the probabilities")
    ax = new_axes(ax)
    edges = sorted({*frame["least"], *frame["below"]})
    _lines(ax, frame, np.searchsorted(edges, frame["least"]).astype(float), {})
    ax.set_xticks(range(len(edges) - 1), [f"{edge:g}" for edge in edges[:-1]])
    ax.set(xlabel="probability of the forced token, from", ylabel="P(pass | token)")
    ax.set_ylim(0, 1.02)
    legend_above(ax, columns=2)
    return ax


def _lines(ax: Axes, frame: pd.DataFrame, places: np.ndarray, names: dict[Any, str]) -> None:
    """One line with error bars a kind; beside each other, so that bars do not hide bars."""
    looks: dict[str, dict[str, Any]] = {
        "all": {"color": "#000000", "marker": "x", "linestyle": "-"}
    } | KINDS
    shown = [kind for kind in looks if (frame["label"] == kind).any()]
    for i, kind in enumerate(shown):
        mine = (frame["label"] == kind).to_numpy()
        rows, side = frame[mine], _WIDTH * (i - (len(shown) - 1) / 2)
        estimate = rows["estimate"].to_numpy()
        spread = np.stack([estimate - rows["low"], rows["high"] - estimate]).clip(0)
        ax.errorbar(
            places[mine] + side,
            estimate,
            yerr=np.nan_to_num(spread),
            label=names.get(kind, kind),
            capsize=1.5,
            elinewidth=0.8,
            **looks[kind],
        )

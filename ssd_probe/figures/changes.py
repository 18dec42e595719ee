"""What changed at locks and forks, as figures: Figure 4's bars, the loss, the fork rates."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ssd_probe.analysis.frames import require_columns
from ssd_probe.figures.style import COLUMN_WIDTH, MODELS, OPEN_COLOR, new_axes

PARTS = {  # of KL(q || p): name and colour
    "outside": (r"support compression $-\log K$", "#0072B2"),
    "inside": (r"within the support $\mathrm{KL}(q\,\Vert\,\pi)$", "#D98E04"),
}
HEAD_COLORS, TAIL_COLOR = ("#0072B2", "#56B4E9"), "#999999"


def fig_4_bars(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 4's bars: head and tail of one fork and one lock at low and high T_eval.

    frame: label, temperature, rank, probability, head (bool), the ranks of each in order. One
    stacked bar a label and temperature: the tokens of the head from below, in two alternating
    blues, and the tail as one hatched piece on top.
    """
    columns = ["label", "temperature", "rank", "probability", "head"]
    require_columns(frame, columns, "Figure 4's bars")
    ax = new_axes(ax, height=2.0)
    names = []
    groups = frame.groupby(["label", "temperature"], sort=False)
    for place, ((label, temperature), rows) in enumerate(groups):
        names.append(f"{label}\nT={temperature:g}")
        head = rows["head"].to_numpy(bool)
        below = 0.0
        for i, p in enumerate(rows["probability"].to_numpy()[head]):
            ax.bar(place, p, bottom=below, color=HEAD_COLORS[i % 2], edgecolor="white", lw=0.3)
            below += p
        tail = rows["probability"].to_numpy()[~head].sum()
        ax.bar(place, tail, bottom=below, facecolor=TAIL_COLOR, edgecolor="white", hatch="////",
               lw=0.3)  # fmt: skip
        if tail > 0.0005:
            ax.annotate(f"{100 * tail:.2g} %", (place, below + tail), (0, 2), ha="center", size=6,
                        textcoords="offset points")  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel="probability", ylim=(0, 1.1), xlim=(-0.6, len(names) - 0.4))
    ax.grid(False, axis="x")
    tail_key = Patch(facecolor=TAIL_COLOR, hatch="////", edgecolor="white", label="tail")
    keys = [Patch(facecolor=HEAD_COLORS[0], label="head, by token"), tail_key]
    ax.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax


def fig_loss(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How far training got towards its target: KL(q || p) in its two parts, before and after.

    frame: label, model ("base", "tuned"), outside, inside (nats), as of `loss_parts`, and positions
    where they are known: a mean of one is not one of thousands. A stacked bar a label and model,
    its sum at its end; no bar is a target reached.
    """
    require_columns(frame, ["label", "model", *PARTS], "the loss figure")
    groups = list(frame.groupby("label", sort=False))
    ax = new_axes(ax, height=0.75 + 0.32 * len(groups))
    ticks = []
    for i, (label, rows) in enumerate(groups):
        for side, row in enumerate(rows.to_dict("records")):
            place, left = 2.6 * i + side, 0.0
            for name, (_, color) in PARTS.items():
                ax.barh(place, row[name], left=left, color=color, edgecolor="white", lw=0.4)
                left += row[name]
            ax.annotate(f"{left:.2g}", (left, place), (2, 0), va="center", size=6,
                        textcoords="offset points")  # fmt: skip
            ticks.append((place, row["model"]))
        size = f"\nn={rows['positions'].iloc[0]}" if "positions" in rows else ""
        ax.text(-0.16, 2.6 * i + 0.5, f"{label}{size}", ha="right", va="center", size=7.5,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel(r"$\mathrm{KL}(q\,\Vert\,p)$, nats")
    ax.grid(False, axis="y")
    keys = [Patch(facecolor=color, label=name) for name, color in PARTS.values()]
    ax.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=1)
    return ax


def fig_rates(frame: pd.DataFrame, ax: Axes | None = None, most: int = 12) -> Axes:
    """Share of forks and of open positions in each group, the `most` groups with most positions.

    frame: of `fork_rates`, one value of `by`; groups from top to bottom as they come. The axis is
    the whole of 0 to 1: every row can be seen, and panels can be compared. Open positions are drawn
    where there are any.
    """
    columns = ["group", "positions", "fork_rate", "low", "high"]
    require_columns(frame, [*columns, "open_rate", "open_low", "open_high"], "the rates figure")
    kept = frame.loc[frame["positions"].nlargest(most).index].sort_index()
    ax = new_axes(ax, height=0.6 + 0.17 * len(kept))
    places = np.arange(len(kept))
    style: dict[str, Any] = {"capsize": 1.5, "elinewidth": 0.8, "clip_on": False}
    ends: list[tuple[str, str, str, str, dict[str, Any]]]
    ends = [("fork", "fork_rate", "low", "high", {"color": MODELS["ssd"]["color"], "fmt": "o"})]
    if (kept["open_rate"] > 0).any():
        hollow = {"color": OPEN_COLOR, "fmt": "D", "markerfacecolor": "white"}
        ends.append(("open", "open_rate", "open_low", "open_high", hollow))
    for i, (name, rate, low, high, look) in enumerate(ends):
        share = kept[rate].to_numpy()
        spread = np.nan_to_num(np.stack([share - kept[low], kept[high] - share]).clip(0))
        beside = 0.15 * (2 * i - len(ends) + 1)
        ax.errorbar(share, places + beside, xerr=spread, label=name, **style, **look)
    names = [f"{g} ({n:,})" for g, n in zip(kept["group"], kept["positions"], strict=True)]
    ax.set_yticks(places, names)
    ax.set(xlabel="share of positions", ylim=(len(kept) - 0.5, -0.5), xlim=(0, 1))
    return ax


def fig_rates_panels(frame: pd.DataFrame) -> Figure:
    """`fig_rates` for each way of grouping, one under another; `frame` has at least one."""
    parts = list(frame.groupby("by", sort=False))
    heights = [min(len(rows), 12) + 2.5 for _, rows in parts]
    size = (COLUMN_WIDTH, 0.17 * sum(heights) + 0.2)
    fig, panels = plt.subplots(
        len(parts), 1, figsize=size, squeeze=False, height_ratios=heights, sharex=True
    )
    for ax, (way, rows) in zip(panels[:, 0], parts, strict=True):
        fig_rates(rows, ax)
        ax.set_title(f"by {way}" if way != "depth" else "by depth, in tokens", loc="left")
        if ax is not panels[-1, 0]:
            ax.set_xlabel("")
    panels[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return fig

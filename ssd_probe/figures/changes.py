"""What changed at locks and forks, as figures: Figure 4's bars, the loss, the fork rates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ssd_probe.analysis.frames import require_columns
from ssd_probe.figures.style import COLUMN_WIDTH, MODELS, new_axes

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

    frame: label, model ("base", "tuned"), outside, inside (nats), as of `loss_parts`. A stacked bar
    a label and model; no bar is a target reached.
    """
    require_columns(frame, ["label", "model", *PARTS], "the loss figure")
    ax = new_axes(ax)
    ticks = []
    for i, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        for side, row in enumerate(rows.to_dict("records")):
            place, below = 2.6 * i + side, 0.0
            for name, (_, color) in PARTS.items():
                ax.bar(place, row[name], bottom=below, color=color, edgecolor="white", lw=0.4)
                below += row[name]
            ax.annotate(f"{below:.3g}", (place, below), (0, 2), ha="center", size=6,
                        textcoords="offset points")  # fmt: skip
            ticks.append((place, row["model"]))
        ax.text(2.6 * i + 0.5, -0.2, str(label), ha="center", va="top", size=7.5,
                transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
    ax.set_ylabel(r"$\mathrm{KL}(q\,\Vert\,p)$, nats")
    ax.grid(False, axis="x")
    keys = [Patch(facecolor=color, label=name) for name, color in PARTS.values()]
    ax.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=1)
    return ax


def fig_rates(frame: pd.DataFrame, ax: Axes | None = None, most: int = 12) -> Axes:
    """Fork rate of each group with its interval, the `most` groups with most positions.

    frame: of `fork_rates`, one value of `by`; groups from top to bottom as they come.
    """
    require_columns(frame, ["group", "positions", "fork_rate", "low", "high"], "the rates figure")
    kept = frame.loc[frame["positions"].nlargest(most).index].sort_index()
    ax = new_axes(ax, height=0.6 + 0.17 * len(kept))
    places = np.arange(len(kept))
    rate = kept["fork_rate"].to_numpy()
    spread = np.stack([rate - kept["low"], kept["high"] - rate]).clip(0)
    style = {"color": MODELS["ssd"]["color"], "capsize": 1.5, "elinewidth": 0.8}
    ax.errorbar(rate, places, xerr=np.nan_to_num(spread), fmt="o", **style)
    names = [f"{g} ({n:,})" for g, n in zip(kept["group"], kept["positions"], strict=True)]
    ax.set_yticks(places, names)
    highest = kept[["fork_rate", "high"]].max().max()
    right = 1.05 * highest if highest > 0 else 1
    ax.set(xlabel="share of forks", ylim=(len(kept) - 0.5, -0.5), xlim=(0, right))
    return ax


def fig_rates_panels(frame: pd.DataFrame) -> Figure:
    """`fig_rates` for each way of grouping, one under another; `frame` has at least one."""
    parts = list(frame.groupby("by", sort=False))
    heights = [min(len(rows), 12) + 2.5 for _, rows in parts]
    size = (COLUMN_WIDTH, 0.17 * sum(heights) + 0.2)
    fig, panels = plt.subplots(
        len(parts), 1, figsize=size, squeeze=False, height_ratios=heights, sharex=True
    )
    right = 0.0  # of the one axis that all share
    for ax, (way, rows) in zip(panels[:, 0], parts, strict=True):
        right = max(right, fig_rates(rows, ax).get_xlim()[1])
        ax.set_title(f"by {way}" if way != "depth" else "by depth, in tokens", loc="left")
        if ax is not panels[-1, 0]:
            ax.set_xlabel("")
    panels[0, 0].set_xlim(0, right)
    return fig

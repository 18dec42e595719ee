"""Figure 8 of the paper: the decoding pipeline on one distribution, a panel a step."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ssd_probe.analysis.frames import require_columns
from ssd_probe.figures.style import (
    MODELS,
    MONOSPACE,
    PAGE_WIDTH,
    context_text,
    new_axes,
    tick_text,
)

_TITLES = {"raw": "model: softmax(z)", "final": "renormalised: drawn"}
_MOST_NAMES = 16  # with more tokens than this the axis shows ranks


def fig_8(frame: pd.DataFrame) -> Figure:
    """Figure 8 whole: a panel a step, and with a column `label` a row of them a label.

    frame: of `analysis.examples.steps.decoding_steps`, with a column `token` or not.
    """
    require_columns(frame, ["step", "setting"], "Figure 8")
    steps = dict(zip(frame["step"], frame["setting"], strict=True))
    labels = list(dict.fromkeys(frame["label"])) if "label" in frame else [""]
    size = (PAGE_WIDTH, 0.3 + 2 * len(labels))
    fig, panels = plt.subplots(len(labels), len(steps), figsize=size, sharey=True, squeeze=False)
    for i, (step, setting) in enumerate(steps.items()):
        name = (f"{i}. " if i else "") + _TITLES.get(step, f"{step} {setting:g}")
        panels[0, i].set_title(name, loc="left", fontsize=7, pad=13 if "context" in frame else None)
    for label, row in zip(labels, panels, strict=True):
        part = frame[frame["label"] == label] if label else frame
        before = part["context"].iloc[0] if "context" in part else ""
        if before:
            # Wider than its panel: the layout must not make room for it beside.
            row[0].annotate(f"after {context_text(before, 100)}▏", (0, 1), (0, 4), fontsize=6,
                            xycoords="axes fraction", textcoords="offset points", in_layout=False,
                            family=MONOSPACE, parse_math=False)  # fmt: skip
            if not row[0].get_title(loc="left"):
                row[0].set_title(" ", loc="left", fontsize=7)  # the layout keeps its line free
        for i, (step, ax) in enumerate(zip(steps, row, strict=True)):
            fig_8_step(part[part["step"] == step], ax)
            ax.set_ylabel("" if i else f"a {label}: probability" if label else "probability")
    return fig


def fig_8_step(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One step: bars by rank in decades, what is removed pale beyond a dashed line.

    frame: rank, probability, cumulative, kept, whole, and token where known.
    """
    require_columns(frame, ["rank", "probability", "cumulative", "kept", "whole"], "Figure 8")
    ax = new_axes(ax)
    look = MODELS["base"]
    for kept, alpha in ((True, 1.0), (False, 0.3)):
        part = frame[frame["kept"] == kept]
        ax.bar(part["rank"], part["probability"], 0.8, color=look["color"], alpha=alpha)
    inside = frame[frame["kept"]]
    notes = [] if frame["whole"].all() else ["over the probe's ranks"]
    if len(inside) < len(frame):
        ax.axvline(len(inside) + 0.5, ymax=0.86, color="#444444", linewidth=0.8, linestyle="--")
        notes.insert(0, f"{len(inside)} kept, mass {inside['cumulative'].iloc[-1]:.3g}")
    ax.text(1, 0.99, "\n".join(notes), transform=ax.transAxes, ha="right", va="top", fontsize=6)
    if "token" in frame and len(frame) <= _MOST_NAMES:
        names = [tick_text(token) for token in frame["token"]]
        ax.set_xticks(frame["rank"], names, rotation=90, family=MONOSPACE, fontsize=5.5,
                      parse_math=False)  # fmt: skip
    else:
        ax.set_xlabel("rank")
    ax.set_yscale("log")
    ax.set_yticks(10.0 ** np.arange(-6, 1))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(ylim=(1e-6, 10), xlim=(0.2, frame["rank"].max() + 0.8), ylabel="probability")
    ax.grid(False, axis="x")
    return ax

"""SSD happening: what is watched of locks, forks and open positions, against the training step."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssd_probe.analysis.frames import require_columns
from ssd_probe.figures.style import PAGE_WIDTH

PANELS = {  # statistic: how its axis is named
    "compression": r"support compression $-\log K$, nats",
    "reshaping": r"reshaping $(1-T)\,H_{1/T}(\pi)$, nats",
    "alignment": r"alignment $T\,\mathrm{KL}(q\,\Vert\,\pi_T)$, nats",
    "tail_mass": "tail mass $1-K$",
    "entropy": "entropy $H(p)$, nats",
    "kl": r"$\mathrm{KL}(\mathrm{start}\,\Vert\,p)$, nats",
}
LOOKS: dict[str, dict[str, Any]] = {
    "lock": {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    "fork": {"color": "#CC79A7", "linestyle": "--", "marker": "o"},
    "open": {"color": "#56708F", "linestyle": ":", "marker": "D"},
}


def fig_watch(frame: pd.DataFrame) -> Figure:
    """Six panels: the loss's three terms, and tail mass, entropy and KL from the start.

    frame: step, label and the columns of `PANELS`; a line a label.
    """
    require_columns(frame, ["step", "label", *PANELS], "the watched training")
    fig, panels = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 3.6), sharex=True)
    for ax, (name, title) in zip(panels.flat, PANELS.items(), strict=True):
        for label, look in LOOKS.items():
            rows = frame[frame["label"] == label]
            if len(rows):
                ax.plot(rows["step"], rows[name], label=label, **look)
        ax.set_title(title, loc="left", fontsize=7)
    if (frame["tail_mass"] > 0).all():
        panels[1, 0].set_yscale("log")
    for ax in panels[1]:
        ax.set_xlabel("training step")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=3)
    return fig

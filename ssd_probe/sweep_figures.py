"""Figures 1-3, 7, 9-11 and 15 of the paper: pass@k over sweeps. From frames; nothing is computed.

Every function draws into `ax`, or into a new figure of one column's width, and returns the Axes.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ssd_probe.analysis.labels import require_columns
from ssd_probe.errors import UserError
from ssd_probe.figures import T_EVAL, by_model, line, new_axes


def fig_2(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 2: pass@k against T_eval, a curve and its interval band per model, the best marked.

    frame: model, temperature, k (one value), estimate, low, high. A model evaluated at a single
    temperature is a level line, as SSD is in the paper.
    """
    require_columns(frame, ["model", "temperature", "k", "estimate", "low", "high"], "Figure 2")
    if frame["k"].nunique() != 1:
        raise UserError("Figure 2 draws one k: select it from the frame first")
    ax = new_axes(ax)
    for look, rows in by_model(frame):
        best = rows.iloc[rows["estimate"].argmax()]
        band = {"color": look["color"], "alpha": 0.16, "linewidth": 0}
        if len(rows) == 1:
            ax.axhline(best["estimate"], color=look["color"], linestyle=look["linestyle"])
            ax.axhspan(best["low"], best["high"], **band)
        else:
            rows = rows.sort_values("temperature")
            ax.fill_between(rows["temperature"], rows["low"], rows["high"], **band)
        line(ax, look, rows["temperature"], rows["estimate"])
        star = {"marker": "*", "s": 70, "color": look["color"], "edgecolor": "black"}
        ax.scatter(best["temperature"], best["estimate"], linewidth=0.6, zorder=4, **star)
    ax.set(xlabel=T_EVAL, ylabel=f"pass@{frame['k'].iloc[0]}")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)  # curves may be anywhere below
    return ax

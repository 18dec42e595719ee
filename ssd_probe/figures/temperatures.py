"""Figures 3, 7, 9, 10 and 11 of the paper: pass@k against temperatures. Nothing is computed here.

Every function draws into `ax`, or into a new figure of one column's width, and returns the Axes;
those that end in `_panels` draw a whole figure. The frames come from `analysis.sweeps`.
"""

from collections.abc import Mapping
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ssd_probe.analysis.frames import require_columns
from ssd_probe.errors import UserError
from ssd_probe.figures.style import (
    COLUMN_WIDTH,
    MODELS,
    MONOSPACE,
    PAGE_WIDTH,
    T_EVAL,
    by_model,
    drawable,
    legend_above,
    line,
    new_axes,
    percent_axis,
)

_SETTINGS = (("#0072B2", "o", "-"), ("#CC79A7", "s", "-."), ("#009E73", "^", (0, (5, 1, 1, 1))),
             ("#444444", "D", ":"), ("#56B4E9", "v", "--"))  # fmt: skip
_HEAT = "cividis"  # one ramp of lightness, made for colour-blind readers
_SAMPLE = (18, 70)  # lines and columns of Figure 7's sample


def fig_3a(
    points: pd.DataFrame, fits: pd.DataFrame, curves: pd.DataFrame, baseline: float | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Figures 3a and 9: pass@k against T_eff, dots and a quadratic fit a setting.

    points: setting, T_eff, estimate, k (one value); fits: setting, r2, peak, low, inside (the
    peak is named where it is inside and its interval known); curves: setting, T_eff, estimate;
    baseline: the base's level, dashed.
    """
    require_columns(points, ["setting", "T_eff", "estimate", "k"], "Figure 3a")
    if points["k"].nunique() != 1:
        raise UserError("Figure 3a draws one k: select it from the frame first")
    ax = new_axes(ax, height=2.9)
    named = fits.set_index("setting")
    for i, (setting, part) in enumerate(points.groupby("setting", sort=False)):
        color, marker, style = _SETTINGS[i % len(_SETTINGS)]
        r2, peak, low, inside = named.loc[setting, ["r2", "peak", "low", "inside"]]
        fit = "no fit" if np.isnan(r2) else f"$R^2$ = {r2:.2f}"
        fit += f", peak {peak:.2f}" if inside and not np.isnan(low) else ""
        ax.scatter(part["T_eff"], part["estimate"], s=14, color=color, marker=marker,
                   edgecolor="white", linewidth=0.3, zorder=3,
                   label=f"{setting} ({fit})")  # fmt: skip
        drawn = curves[curves["setting"] == setting]
        ax.plot(drawn["T_eff"], drawn["estimate"], color=color, linestyle=style)
    if baseline is not None:
        base = MODELS["base"]
        ax.axhline(baseline, color=base["color"], linestyle=base["linestyle"], label="base, best")
    ax.set(xlabel=r"effective temperature $T_{\mathrm{train}} \cdot T_{\mathrm{eval}}$",
           ylabel=f"pass@{points['k'].iloc[0]}")  # fmt: skip
    percent_axis(ax.yaxis)
    legend_above(ax, columns=1)
    return ax


def fig_3b(
    grid: pd.DataFrame, ax: Axes | None = None, limits: tuple[float, float] | None = None
) -> Axes:
    """Figures 3b, 10 and 11, one panel: a heat map over T_train x T_eval, in percent.

    grid: T_train (index) x T_eval (columns), pass@k as fractions, NaN where not run: hatched. The
    best cell has a frame. limits: of the colours, when several panels share them.
    """
    values = grid.to_numpy(float)
    if not np.isfinite(values).any():
        raise UserError("the heat map has no cell with a value")
    ax = new_axes(ax, height=2.6)
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    ax.set_facecolor("#EEEEEE")
    image = ax.imshow(100 * values, cmap=_HEAT, vmin=100 * low, vmax=100 * high,
                      origin="lower", aspect="auto")  # fmt: skip
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="none", linewidth=0,
                                   edgecolor="#AAAAAA", hatch="////"))  # fmt: skip
        else:
            ax.text(column, row, f"{100 * value:.1f}", ha="center", va="center", fontsize=6,
                    color="black" if value > middle else "white")  # fmt: skip
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="none", edgecolor="#D55E00",
                           linewidth=1.8, clip_on=False, zorder=4))  # fmt: skip
    ax.set_xticks(range(values.shape[1]), [f"{t:g}" for t in grid.columns])
    ax.set_yticks(range(values.shape[0]), [f"{t:g}" for t in grid.index])
    ax.set(xlabel=T_EVAL, ylabel=r"training temperature $T_{\mathrm{train}}$")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)  # type: ignore[operator]  # the stubs take it for a property
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.set_title("%", fontsize=7)
    return ax


def fig_3b_panels(grids: Mapping[str, pd.DataFrame]) -> Figure:
    """Figures 10 and 11 whole: a heat map a setting, one scale of colour for all."""
    values = np.concatenate([grid.to_numpy(float).ravel() for grid in grids.values()])
    if not np.isfinite(values).any():
        raise UserError("the heat maps have no cell with a value")
    rows = max(len(grid) for grid in grids.values())
    size = (COLUMN_WIDTH, (0.75 + 0.24 * max(rows, 3)) * len(grids))
    fig, axes = plt.subplots(len(grids), 1, figsize=size, squeeze=False)
    for ax, (setting, grid) in zip(axes[:, 0], grids.items(), strict=True):
        fig_3b(grid, ax, (float(np.nanmin(values)), float(np.nanmax(values))))
        ax.set_title(setting, loc="left")
        ax.set_ylabel(r"$T_{\mathrm{train}}$")
        if ax is not axes[-1, 0]:
            ax.set_xlabel("")
    return fig


def fig_7(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 7: the stress test, pass@k against T_eval, a curve and its band a model and k.

    frame: model, temperature, k, estimate, low, high. Markers of every k but the least are hollow.
    """
    require_columns(frame, ["model", "temperature", "k", "estimate", "low", "high"], "Figure 7")
    ax = new_axes(ax, height=2.6)
    for look, rows in by_model(frame):
        for i, (k, part) in enumerate(rows.groupby("k")):
            part = part.sort_values("temperature")
            named = look | {"name": f"{look['name']}, pass@{k}"}
            fill = "white" if i else look["color"]
            line(ax, named, part["temperature"], part["estimate"], markerfacecolor=fill)
            ax.fill_between(part["temperature"], part["low"], part["high"], color=look["color"],
                            alpha=0.12, linewidth=0)  # fmt: skip
    ax.set(xlabel=T_EVAL, ylabel="pass@k")
    percent_axis(ax.yaxis)
    legend_above(ax, columns=2)
    return ax


def fig_7_panels(frame: pd.DataFrame, sample: str) -> Figure:
    """Figure 7 whole: a degraded training sample, and beside it `fig_7`."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4), width_ratios=[1.15, 1])
    fig_7_sample(sample, left)
    fig_7(frame, right)
    return fig


def fig_7_sample(text: str, ax: Axes | None = None) -> Axes:
    """The start of a sample as it was drawn, monospace, long lines wrapped."""
    height, width = _SAMPLE
    lines = [
        piece
        for row in drawable(text.replace("\r", "").replace("\t", "    ")).split("\n")
        for piece in wrap(row, width, drop_whitespace=False, replace_whitespace=False) or [""]
    ]
    shown = lines[:height] + (["…"] if len(lines) > height else [])
    ax = new_axes(ax)
    ax.text(0, 1, "\n".join(shown), transform=ax.transAxes, ha="left", va="top", fontsize=5.5,
            family=MONOSPACE, parse_math=False)  # fmt: skip
    ax.axis("off")
    return ax

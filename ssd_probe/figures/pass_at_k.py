"""Figures 1, 2 and 15 of the paper: pass@k of base and SSD. Nothing is computed here.

Every function draws into `ax`, or into a new figure of one column's width, and returns the Axes;
those that end in `_panels` draw a whole figure. The frames come from `analysis.sweeps`.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.sweeps.summaries import Margin
from ssd_probe.errors import UserError
from ssd_probe.figures.style import (
    COLUMN_WIDTH,
    MODELS,
    PAGE_WIDTH,
    T_EVAL,
    bars,
    by_model,
    legend_above,
    line,
    new_axes,
    percent_axis,
)

_LONG = 18  # characters of a name, of which four fit a page side by side
_SCORE = ["estimate", "low", "high"]


def fig_1(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 1, one panel: a pair of bars for each name, base hatched, SSD solid, the gain above.

    frame: model ("base", "ssd"), name (of the pair, in order), estimate; low and high are drawn
    where they are known. Also Figure 15, with a group as the name.
    """
    require_columns(frame, ["model", "name", "estimate"], "Figure 1")
    ax = new_axes(ax)
    names = list(dict.fromkeys(frame["name"]))
    models = list(by_model(frame))
    tops = dict.fromkeys(names, 0.0)
    gains_at: dict[str, tuple[float, float]] = {}
    for i, (look, rows) in enumerate(models):
        side = i - (len(models) - 1) / 2
        places = rows["name"].map(names.index)
        bars(ax, look, places, rows["estimate"], side, len(models))
        ends = rows.reindex(columns=_SCORE)
        _whiskers(ax, places + side * 0.8 / len(models), ends)
        for name, top in zip(rows["name"], ends.max(axis=1), strict=True):
            tops[name] = max(tops[name], top)
            if look is MODELS["ssd"] and len(models) > 2:  # the gain stands above its own bar
                gains_at[name] = (names.index(name) + side * 0.8 / len(models), top)
    scores = frame.pivot(index="name", columns="model", values="estimate")
    if {"base", "ssd"} <= set(scores.columns):
        for i, (name, gain) in enumerate((scores["ssd"] - scores["base"])[names].items()):
            if not np.isnan(gain):
                place = gains_at.get(str(name), (i, tops[str(name)]))
                ax.annotate(_points(gain), place, (0, 2), ha="center",
                            textcoords="offset points", fontsize=6.5)  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 1.12 * max(tops.values()) or 1), ylabel="pass@k")
    percent_axis(ax.yaxis)
    ax.grid(False, axis="x")
    legend_above(ax)
    return ax


def fig_1_panels(frame: pd.DataFrame, titles: Mapping[str, str], own: int = 0) -> Figure:
    """Figure 1 whole: a panel a group, one above the other. frame: as `fig_1`, and group.

    titles: group -> its title, in order; own: how many of the last names are not the paper's, set
    apart by a line.
    """
    require_columns(frame, ["group", "name"], "Figure 1")
    names = list(dict.fromkeys(frame["name"]))
    fig, panels = plt.subplots(
        len(titles), 1, figsize=(PAGE_WIDTH, 0.6 + 1.5 * len(titles)), sharex=True, squeeze=False
    )
    for ax, (group, title) in zip(panels[:, 0], titles.items(), strict=True):
        part = frame[frame["group"] == group]
        empty = [name for name in names if name not in set(part["name"])]
        gaps = pd.DataFrame({"model": "base", "name": empty, "estimate": np.nan})
        fig_1(pd.concat([part, gaps]) if empty else part, ax)
        ax.set_ylabel(title)
        _set_apart(ax, len(names), own)
        if ax is not panels[0, 0]:
            _without_legend(ax)
    return fig


def fig_rivals(frame: pd.DataFrame) -> Figure:
    """`fig_1` as wide as a page, for more models than two. frame: as `fig_1`, and k (one value)."""
    require_columns(frame, ["model", "name", "k", "estimate"], "the rivals' figure")
    if frame["k"].nunique() != 1:
        raise UserError("the rivals' figure draws one k: select it from the frame first")
    fig, ax = plt.subplots(figsize=(PAGE_WIDTH, 2.8))
    fig_1(frame, ax)
    ax.set_ylabel(f"pass@{frame['k'].iloc[0]}")
    longest = max(map(len, frame["model"]))
    legend_above(ax, columns=4 if longest <= _LONG else 2)
    return fig


def fig_2(frame: pd.DataFrame, ax: Axes | None = None, margin: Margin | None = None) -> Axes:
    """Figure 2: pass@k against T_eval, a curve and its interval band per model, the best marked.

    frame: model, temperature, k (one value), estimate, low, high. A model evaluated at a single
    temperature is a level line, as SSD is in the paper. margin: shaded, with its value.
    """
    require_columns(frame, ["model", "temperature", "k", *_SCORE], "Figure 2")
    if frame["k"].nunique() != 1:
        raise UserError("Figure 2 draws one k: select it from the frame first")
    ax = new_axes(ax)
    models = list(by_model(frame))
    bests = [rows.iloc[rows["estimate"].argmax()] for _, rows in models]
    tops = [(best["temperature"], best["estimate"]) for best in bests]
    for i, (look, rows) in enumerate(models):
        best = bests[i]
        band = {"color": look["color"], "alpha": 0.16, "linewidth": 0}
        if len(models) > 2:  # three fills over each other are mud
            band = {"edgecolor": look["color"], "facecolor": "none", "linewidth": 0.5,
                    "linestyle": look["linestyle"]}  # fmt: skip
        if len(rows) == 1:
            ax.axhline(best["estimate"], color=look["color"], linestyle=look["linestyle"])
            if margin is None:
                ax.axhspan(best["low"], best["high"], **band)
            else:  # two shadings would hide each other
                _whiskers(ax, rows["temperature"], rows[_SCORE])
        else:
            rows = rows.sort_values("temperature")
            ax.fill_between(rows["temperature"], rows["low"], rows["high"], **band)
        line(ax, look, rows["temperature"], rows["estimate"])
        size = 70 * (1 + tops[i + 1 :].count(tops[i]))  # seen around those drawn in its place
        star = {"marker": "*", "s": size, "color": look["color"], "edgecolor": "black"}
        ax.scatter(best["temperature"], best["estimate"], linewidth=0.6, zorder=4, **star)
    if margin is not None:
        _shade(ax, margin)
    ax.set(xlabel=T_EVAL, ylabel=f"pass@{frame['k'].iloc[0]}")
    percent_axis(ax.yaxis)
    legend_above(ax)  # curves may be anywhere below
    return ax


def fig_2_panels(panels: Mapping[tuple[str, int], tuple[pd.DataFrame, Margin]]) -> Figure:
    """Figure 2 whole: a row a group, a column a k. panels: (group, k) -> `against_base`'s two."""
    groups, ks = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    size = (PAGE_WIDTH if len(ks) > 1 else COLUMN_WIDTH, 2.2 * len(groups))
    fig, axes = plt.subplots(len(groups), len(ks), figsize=size, squeeze=False)
    for (group, k), (frame, margin) in panels.items():
        ax = fig_2(frame, axes[groups.index(group), ks.index(k)], margin)
        ax.set_ylabel(f"pass@{k}, {group}")
        if ax is not axes[0, 0]:
            _without_legend(ax)
    return fig


def fig_2_bars(frame: pd.DataFrame, ax: Axes | None = None, own: int = 0) -> Axes:
    """Figure 2 where only levels are known: the base, its best decoding, SSD, and the margin above.

    frame: name, base, best, ssd, margin (SSD - best), fractions; own: as of `fig_1_panels`.
    """
    require_columns(frame, ["name", "base", "best", "ssd", "margin"], "Figure 2")
    if ax is None:
        ax = plt.subplots(figsize=(max(COLUMN_WIDTH, 0.85 * len(frame)), 2.3))[1]
    places = pd.Series(range(len(frame)))
    tuned = MODELS["base"] | {"name": r"base, best $T_{\mathrm{eval}}$", "hatch": "", "alpha": 0.5}
    looks = {"base": MODELS["base"], "best": tuned, "ssd": MODELS["ssd"]}
    for i, (column, look) in enumerate(looks.items()):
        for bar in bars(ax, look, places, frame[column], i - 1, len(looks)):
            bar.set_alpha(look.get("alpha"))
    for i, (top, margin) in enumerate(zip(frame["ssd"], frame["margin"], strict=True)):
        ax.annotate(_points(margin), (i + 0.8 / 3, top), (0, 2), ha="center",
                    textcoords="offset points", fontsize=6.5)  # fmt: skip
    ax.set_xticks(places, frame["name"])
    _set_apart(ax, len(frame), own)
    ax.set(ylabel="pass@1", ylim=(0, 1.12 * frame["ssd"].max()))
    percent_axis(ax.yaxis)
    ax.grid(False, axis="x")
    legend_above(ax)
    return ax


def _points(difference: float) -> str:
    """A difference of fractions in percentage points, with the axes' minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def _whiskers(ax: Axes, places: pd.Series, ends: pd.DataFrame) -> None:
    """Intervals on bars, where they are known. ends: estimate, low, high."""
    known = ends[["low", "high"]].notna().all(axis=1).to_numpy()
    if known.any():
        heights, low, high = (ends.loc[known, name].to_numpy(float) for name in _SCORE)
        ax.errorbar(places[known], heights, [heights - low, high - heights], fmt="none",
                    ecolor="#222222", elinewidth=0.7, capsize=1.5)  # fmt: skip


def _shade(ax: Axes, margin: Margin) -> None:
    """The band between the base's best and the student's level, and its height in points."""
    look = MODELS["ssd"] if margin.gain >= 0 else MODELS["base"]
    ax.axhspan(margin.base, margin.student, color=look["color"], alpha=0.14, linewidth=0)
    place: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(_points(margin.gain), (1, (margin.base + margin.student) / 2), (3, 0),
                va="center", color=look["color"], annotation_clip=False, **place)  # fmt: skip


def _set_apart(ax: Axes, names: int, own: int) -> None:
    """A line before the last `own` of `names` groups of bars."""
    if own:
        ax.axvline(names - own - 0.5, color="#777777", linewidth=0.8, linestyle=":")


def _without_legend(ax: Axes) -> None:
    legend = ax.get_legend()
    if legend is not None:
        legend.remove()

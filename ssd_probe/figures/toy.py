"""Figures 12-14 of the paper, the toy machine, from frames of `analysis.toy.pictures`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.toy.plot_data import ToyPictures
from ssd_probe.figures.saving import Plan, Saved, save_all
from ssd_probe.figures.style import COLUMN_WIDTH, FORK_COLOR, LOCK_COLOR, MODELS, PAGE_WIDTH

_RIGHT, _WRONG = "#2E7D4F", "#B9B9B9"
_MOST_BOXES, _MOST_ARROWS = 8, 3  # a longer machine is drawn with "x n" and "n tokens"


def draw_toy(shown: ToyPictures, out: Path) -> Saved:
    """Draw Figures 12-14 of a solved machine into `out`."""
    plans = [Plan("fig_12", shown, _fig_12), Plan("fig_13", shown, _fig_13),
             Plan("fig_14", shown, _fig_14)]  # fmt: skip
    return save_all(plans, out)


def _fig_12(shown: ToyPictures) -> tuple[Figure, str]:
    return fig_12(shown.steps, shown.raw[shown.raw["model"] == "base"]), (
        "Figure 12. The toy machine: one right token (green) or more at each step, all else fails; "
        "below, the base's distributions, nothing tempered or cut."
    )


def _fig_13(shown: ToyPictures) -> tuple[Figure, str]:
    return fig_13(shown.raw, shown.decoded, shown.optima), (
        f"Figure 13. Left: {shown.steps['position'].iloc[-1]} before and after the ideal fit at "
        f"{shown.train}, log scale; right: what is drawn at each model's optimum, top-p "
        f"{shown.top_p:g}. Right tokens have a green outline."
    )


def _fig_14(shown: ToyPictures) -> tuple[Figure, str]:
    return fig_14(shown.fixed, shown.curve), (
        "Figure 14. What base (left) and SSD (right) draw at three temperatures, top-p "
        f"{shown.top_p:g}. Right tokens have a green outline. Below, success against temperature, "
        "with every jump, and each optimum (star)."
    )


def fig_12(steps: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Figure 12 whole. steps: as `fig_12_machine`; frame: position, token, probability, right."""
    names = list(dict.fromkeys(frame["position"]))
    fig = plt.figure(figsize=(PAGE_WIDTH, 3.5))
    grid = fig.add_gridspec(2, len(names), height_ratios=[1, 1.25])
    fig_12_machine(steps, fig.add_subplot(grid[0, :]))
    first = None
    for i, name in enumerate(names):
        first = fig.add_subplot(grid[1, i], sharey=first)
        ax = fig_12_archetype(frame[frame["position"] == name], first)
        ax.set_title(name, loc="left")
        ax.set_ylabel("probability" if i == 0 else "")
    return fig


def fig_12_machine(steps: pd.DataFrame, ax: Axes) -> Axes:
    """The chain of positions, its right tokens on the arrows. steps: position, times, right."""
    require_columns(steps, ["position", "times", "right"], "Figure 12")
    expand = steps["times"].sum() <= _MOST_BOXES
    boxes: list[tuple[str, list[int]]] = []
    for name, times, right in steps[["position", "times", "right"]].itertuples(index=False):
        label = name if expand or times == 1 else f"{name}\nx {times}"
        boxes += [(label, list(right))] * (times if expand else 1)
    for i, (name, right) in enumerate([*boxes, ("PASS", [])]):
        color = "#D9EAF7" if name == "PASS" else "#F2F2F2"
        color = FORK_COLOR if "fork" in name else LOCK_COLOR if "lock" in name else color
        ax.add_patch(FancyBboxPatch((i - 0.24, 0.8), 0.48, 0.4, facecolor=color, linewidth=0.7,
                                    boxstyle="round,pad=0,rounding_size=0.06"))  # fmt: skip
        ax.text(i, 1, name, ha="center", va="center")
        if not right:
            break
        many = len(right) > _MOST_ARROWS
        labels = [f"{len(right)} tokens"] if many else [f"tok{token}" for token in right]
        for bend, label in zip(np.linspace(1, -1, len(labels)), labels, strict=True):
            bend = bend if len(labels) > 1 else 0.0
            _arrow(ax, (i + 0.24, 1 + 0.1 * bend), (i + 0.76, 1 + 0.1 * bend), _RIGHT, -0.5 * bend)
            height = 1.04 if len(labels) == 1 else 1 + 0.33 * bend
            ax.text(i + 0.5, height, label, color=_RIGHT, ha="center", fontsize=6.5,
                    va="bottom" if len(labels) == 1 else "center")  # fmt: skip
        _arrow(ax, (i, 0.8), (i, 0.38), "#777777", 0)
    ax.text((len(boxes) - 1) / 2, 0.25, "any other token: FAIL", ha="center", va="center",
            color="#555555")  # fmt: skip
    ax.add_patch(FancyBboxPatch((-0.24, 0.12), len(boxes) - 0.52, 0.26, facecolor="none",
                                edgecolor="#777777", linewidth=0.6,
                                boxstyle="round,pad=0,rounding_size=0.06"))  # fmt: skip
    ax.set(xlim=(-0.4, len(boxes) + 0.4), ylim=(0, 1.5))
    ax.axis("off")
    return ax


def fig_12_archetype(frame: pd.DataFrame, ax: Axes) -> Axes:
    """One position's distribution, right tokens green. frame: token, probability, right."""
    require_columns(frame, ["token", "probability", "right"], "Figure 12")
    colors = [_RIGHT if right else _WRONG for right in frame["right"]]
    ax.bar(frame["token"], frame["probability"], 0.8, color=colors)
    ax.set(xlabel="token", ylabel="probability")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlim(-0.8, frame["token"].max() + 0.8)
    ax.grid(False, axis="x")
    return ax


def fig_13(raw: pd.DataFrame, decoded: pd.DataFrame, at: dict[str, float]) -> Figure:
    """Figure 13 whole: the last position (a lock) reshaped, the one before (a fork) as played.

    raw, decoded: model, position, token, probability, right; at: each model's temperature.
    """
    names = list(dict.fromkeys(raw["position"]))
    lock, fork = names[-1], names[-2] if len(names) > 1 else names[-1]
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    fig_13_tokens(raw[raw["position"] == lock], left, log=True)
    left.set_title(f"{lock}: reshaped by the fit", loc="left")
    fig_13_tokens(decoded[decoded["position"] == fork], right)
    right.set_title(f"{fork}: policy at each optimum", loc="left")
    names = [f"{MODELS[model]['name']}, T={t:.3f}" for model, t in at.items()]
    right.legend(right.get_legend_handles_labels()[0], names, loc="upper right")
    return fig


def fig_13_tokens(frame: pd.DataFrame, ax: Axes, *, log: bool = False) -> Axes:
    """Bars of each model by token. frame: model, token, probability, right.

    Shown up to the last token that any model may draw. With more than 8 tokens only SSD's bars and
    the first token carry their value.
    """
    require_columns(frame, ["model", "token", "probability", "right"], "Figure 13")
    frame = frame[frame["token"] <= frame.loc[frame["probability"] > 0, "token"].max()]
    crowded = frame["token"].nunique() > 8
    for side, model in ((-0.2, "base"), (0.2, "ssd")):
        look, rows = MODELS[model], frame[frame["model"] == model]
        for outline, label in ((False, look["name"]), (True, "")):
            part = rows[rows["right"]] if outline else rows
            ax.bar(part["token"] + side, part["probability"], 0.4, label=label or None,
                   facecolor="none" if outline else look["color"],
                   hatch=None if outline else look["hatch"],
                   edgecolor=_RIGHT if outline else "white",
                   linewidth=1.4 if outline else 0.4)  # fmt: skip
        for token, p in rows[["token", "probability"]].itertuples(index=False):
            if p > 0 and (not crowded or model == "ssd" or token == 0):
                apart = {"base": "right", "ssd": "left"}[model] if crowded else "center"
                ax.annotate(f"{100 * p:.1f}", (token + side, p), (0, 1.5), ha=apart,
                            textcoords="offset points", fontsize=6)  # fmt: skip
    if log:
        ax.set_yscale("log")
        ax.set_ylim(frame.loc[frame["probability"] > 0, "probability"].min() / 2, 2.5)
        ax.set_xlim(-1.7, frame["token"].max() + 0.7)
    ax.set(xlabel="token (bars labelled in %)", ylabel="probability")
    ax.set_xticks(sorted(set(frame["token"])))
    ax.margins(y=0.12)
    ax.grid(False, axis="x")
    ax.legend(loc="upper right")
    return ax


def fig_14(fixed: dict[float, pd.DataFrame], curve: pd.DataFrame) -> Figure:
    """Figure 14 whole. fixed: a frame as of `fig_14_butterfly` by temperature; curve: below."""
    fig = plt.figure(figsize=(PAGE_WIDTH, 5.2))
    grid = fig.add_gridspec(2, len(fixed), height_ratios=[1.55, 1])
    for i, (temperature, frame) in enumerate(fixed.items()):
        ax = fig_14_butterfly(frame, fig.add_subplot(grid[0, i]))
        ax.set_title(f"T = {temperature:.3f}".removesuffix(".000"), loc="left")
        if i:
            legend = ax.get_legend()
            if legend is not None:
                legend.remove()
    fig_14_success(curve, fig.add_subplot(grid[1, :]), list(fixed))
    return fig


def fig_14_butterfly(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Base to the left, SSD to the right. frame: model, position, row, probability, right."""
    require_columns(frame, ["model", "position", "row", "probability", "right"], "Figure 14")
    ax = ax if ax is not None else plt.subplots(figsize=(COLUMN_WIDTH, 3.2))[1]
    places: dict[tuple[str, str], float] = {}
    y = 0.0
    for position, part in frame.groupby("position", sort=False):
        ax.text(-1.02, y - 0.95, str(position), va="center", fontweight="bold", fontsize=6.5)
        for row in dict.fromkeys(part["row"]):
            places[str(position), row] = y
            y += 1
        y += 1.5
    columns = ["model", "position", "row", "probability", "right"]
    for model, position, row, p, right in frame[columns].itertuples(index=False):
        look, sign = MODELS[model], -1 if model == "base" else 1
        ax.barh(places[position, row], sign * p, 0.85, facecolor=look["color"],
                hatch=look["hatch"], edgecolor=_RIGHT if right else "white",
                linewidth=1.4 if right else 0.4)  # fmt: skip
        if p >= 0.005:
            inside = p > 0.72  # beside the bar, the number would leave the axes
            place = (sign * (-3.5 if inside else 2.5), 0)
            box = {"pad": 0.6, "linewidth": 0, "facecolor": "white" if inside else "none"}
            ax.annotate(f"{100 * p:.0f}", (sign * p, places[position, row]), place,
                        textcoords="offset points", va="center", fontsize=6, bbox=box,
                        ha="left" if (sign > 0) != inside else "right")  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(list(places.values()), [row for _, row in places], fontsize=6)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1], ["1", "0.5", "0", "0.5", "1"])
    ax.set(xlim=(-1.05, 1.05), ylim=(y - 1.9, -1.7), xlabel="probability (labels in %)")
    ax.grid(False, axis="y")
    looks = [MODELS["base"], MODELS["ssd"]]
    handles = [Patch(facecolor=look["color"], hatch=look["hatch"], edgecolor="white",
                     label=look["name"]) for look in looks]  # fmt: skip
    ax.legend(handles=handles, loc="upper right", ncols=2, borderaxespad=0, borderpad=0.1,
              columnspacing=1, handlelength=1.8)  # fmt: skip
    return ax


def fig_14_success(frame: pd.DataFrame, ax: Axes, marked: list[float]) -> Axes:
    """Success against T, broken at every jump. frame: model, piece, temperature, success."""
    require_columns(frame, ["model", "piece", "temperature", "success"], "Figure 14")
    for temperature in marked:
        ax.axvline(temperature, color="#999999", linewidth=0.7, linestyle=":")
    for model, rows in frame.groupby("model", sort=False):
        look = MODELS[str(model)]
        style = {key: look[key] for key in ("color", "linestyle")}
        for i, (_, part) in enumerate(rows.groupby("piece")):
            label = look["name"] if i == 0 else None
            ax.plot(part["temperature"], 100 * part["success"], label=label, **style)
        best = rows.loc[rows["success"].idxmax()]
        x, y = best["temperature"], 100 * best["success"]
        ax.scatter(x, y, marker="*", s=70, color=look["color"], edgecolor="black", linewidth=0.6,
                   zorder=4)  # fmt: skip
        # The curves go on to the right of the first, unless there is no room to its left.
        low, high = frame["temperature"].min(), frame["temperature"].max()
        first = x <= min(marked) and x > low + 0.15 * (high - low)
        ax.annotate(f"{y:.4g} % at T = {x:.3f}", (x, y), (-5, 4) if first else (5, 3),
                    textcoords="offset points", ha="right" if first else "left")  # fmt: skip
    ax.set(xlabel="evaluation temperature $T_{\\mathrm{eval}}$", ylabel="success (%)")
    ax.set_ylim(0, 125 * frame["success"].max() or 1)
    ax.legend(loc="upper right")
    return ax


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str, bend: float
) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})

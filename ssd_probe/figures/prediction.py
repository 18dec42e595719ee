"""Figures of a prediction: the map over T_train x T_eval, and prediction against a real student.

From frames of `analysis.prediction.pictures`; nothing is computed here.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.plot_data import PredictionPictures, RivalCurves
from ssd_probe.errors import UserError
from ssd_probe.figures.saving import Plan, Saved, save_all
from ssd_probe.figures.style import PAGE_WIDTH, T_EVAL, by_model, line

_GAP = 0.35  # between the base's row and the students', in rows
_MOST_NUMBERS = 12  # columns: beyond, numbers would not fit their cells
_CURVES = {
    "entropy": "entropy (nats)",
    "survivors": "surviving tokens",
    "top1": "mass of top token",
}
_PRICES = {"slip": "locks: mass off the likeliest token", "tail": "forks: mass outside the support"}
_LEAST_PRICE = 1e-4  # below it the axis is linear, so that 0 has a place
_MAP = ["model", "T_train", "T_eval", "precision", "branching", "feasible"]


def draw_prediction(shown: PredictionPictures, out: Path) -> Saved:
    """Draw a map for each pair of truncations, and the check against a student if there is one."""
    where = f"{shown.locks} locks and {shown.forks} forks by branching at {shown.rule}"
    plans = []
    for ((k, p), (k_eval, p_eval)), frame in shown.maps.items():
        caption = (
            f"Prediction of an ideal fit: students trained at top-k {k}, top-p {p:g}, above "
            f"the base, all decoded at top-k {k_eval}, top-p {p_eval:g}; {where}. Outlined: "
            f"{shown.limits}."
        )
        stem = f"predict_train_k{k}_p{p:g}_eval_k{k_eval}_p{p_eval:g}"
        plans.append(Plan(stem, (frame, caption), _map))
    for (k_eval, p_eval), frame in shown.checks.items():
        caption = (
            f"Ideal fit and trained student (SSD), decoded at top-k {k_eval}, top-p "
            f"{p_eval:g}: means over locks (top) and forks (bottom); {where}."
        )
        stem = f"predict_student_eval_k{k_eval}_p{p_eval:g}"
        plans.append(Plan(stem, (frame, caption), _check))
    if shown.rivals is not None:
        cut = str(shown.rivals.cut).removeprefix("T=1, ")
        caption = (
            "Prediction: head entropy at forks against its price, a curve over T (markers) "
            "for the base, the ideal student of most fork entropy, and decode-only rivals as "
            f"published; base and student with {cut}. Left: mass that locks draw off their "
            f"likeliest token; dotted: {shown.rivals.slip:.3g}, the base's at T=1, or 0.001. "
            f"Right: mass drawn outside of the support of {shown.rivals.inside}. Up and left is "
            f"better; {where}."
        )
        plans.append(Plan("predict_rivals", (shown.rivals, caption), _rivals))
    return save_all(plans, out)


def _rivals(data: tuple[RivalCurves, str]) -> tuple[Figure, str]:
    return fig_rivals(data[0].curves, data[0].slip), data[1]


def _map(data: tuple[pd.DataFrame, str]) -> tuple[Figure, str]:
    return fig_map(data[0]), data[1]


def _check(data: tuple[pd.DataFrame, str]) -> tuple[Figure, str]:
    return fig_check(data[0]), data[1]


def fig_map(frame: pd.DataFrame) -> Figure:
    """Lock precision and fork branching over T_train x T_eval, the base below, feasible outlined.

    frame: model, T_train (NaN: the base), T_eval, precision, branching, feasible; one truncation.
    """
    require_columns(frame, _MAP, "the map")
    rows = frame["T_train"].nunique(dropna=False)
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.15 + 0.24 * rows))
    fig_map_panel(frame, "precision", left, vmax=1.0)
    left.set_title("locks: mean mass of the top token", loc="left")
    fig_map_panel(frame, "branching", right)
    right.set_title("forks: mean branching", loc="left")
    right.set_ylabel("")
    return fig


def fig_map_panel(frame: pd.DataFrame, column: str, ax: Axes, vmax: float | None = None) -> Axes:
    """One panel: a cell a setting, its value written in it. frame: as `fig_map`."""
    require_columns(frame, [*_MAP[:3], column, "feasible"], "the map")
    if frame.duplicated(["T_train", "T_eval"]).any():
        raise UserError("the map draws one truncation: select it from the frame first")
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": frame[column].min(),
                              "vmax": vmax or frame[column].max()}  # fmt: skip
    temperatures = np.sort(frame["T_eval"].unique())
    students = frame.dropna(subset=["T_train"])
    base = frame[frame["T_train"].isna()].assign(T_train=-1.0)
    names: list[str] = []
    places: list[float] = []
    for bottom, part in ((-1 - _GAP, base), (0.0, students)):
        if part.empty:
            continue
        values = _grid(part, column, temperatures)
        x, y = np.arange(len(temperatures) + 1) - 0.5, bottom + np.arange(len(values) + 1) - 0.5
        mesh = ax.pcolormesh(x, y, values.to_numpy(float), edgecolors="white", linewidth=0.4,
                             **shades)  # fmt: skip
        _numbers(ax, values, bottom, mesh)
        _outline(ax, _grid(part, "feasible", temperatures).eq(True).to_numpy(), bottom)
        names += ["base" if t < 0 else f"{t:g}" for t in values.index]
        places += [bottom + row for row in range(len(values))]
    ax.set_xticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    ax.set_yticks(places, names)
    ax.set(xlabel=T_EVAL, ylabel=r"training temperature $T_{\mathrm{train}}$")
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def fig_check(frame: pd.DataFrame) -> Figure:
    """Base, ideal fit and trained student against T_eval, locks above forks.

    frame: model, label, T_eval, entropy, survivors, top1; one truncation.
    """
    require_columns(frame, ["model", "label", "T_eval", *_CURVES], "the comparison")
    fig, panels = plt.subplots(2, len(_CURVES), figsize=(PAGE_WIDTH, 3.5), sharex=True)
    for row, label in zip(panels, (LOCK, FORK), strict=True):
        part = frame[frame["label"] == label]
        require_columns(part, ["model"], f"the comparison at {label}s")
        for ax, (column, name) in zip(row, _CURVES.items(), strict=True):
            for look, rows in by_model(part):
                line(ax, look, rows["T_eval"], rows[column])
            ax.set_ylabel(name)
        row[0].set_title(f"{label}s", loc="left")
    for ax in panels[1]:
        ax.set_xlabel(T_EVAL)
    panels[0, 0].legend(loc="upper left", borderaxespad=0.3)
    return fig


def fig_rivals(frame: pd.DataFrame, slip: float) -> Figure:
    """Head entropy at forks against slip at locks and tail at forks, a curve a policy over T.

    frame: model, temperature, slip, tail (mass), head_entropy (nats). slip: marked.
    """
    require_columns(frame, ["model", "temperature", *_PRICES, "head_entropy"], "the rivals")
    fig, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.4), sharey=True)
    for ax, (column, name) in zip(panels, _PRICES.items(), strict=True):
        for look, rows in by_model(frame):
            rows = rows.sort_values("temperature")
            line(ax, look, rows[column], rows["head_entropy"])
        ax.set_xscale("symlog", linthresh=_LEAST_PRICE, linscale=0.4)
        ax.set_xlim(left=0)
        ax.set_xlabel(name)
    panels[0].axvline(slip, color="#777777", linewidth=0.8, linestyle=":")
    panels[0].set_ylabel("forks: head entropy (nats)")
    handles, names = panels[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=3)
    return fig


def _grid(part: pd.DataFrame, column: str, temperatures: NDArray) -> pd.DataFrame:
    table = part.pivot(index="T_train", columns="T_eval", values=column)
    return table.reindex(columns=temperatures)  # a missing cell stays blank


def _numbers(ax: Axes, values: pd.DataFrame, bottom: float, mesh: Any) -> None:
    if values.shape[1] > _MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(values.to_numpy(float)):
        if np.isfinite(value):
            dark = np.dot(mesh.to_rgba(value)[:3], (0.3, 0.59, 0.11)) < 0.5
            ax.text(column, bottom + row, _number(value, mesh.norm.vmax), ha="center", va="center",
                    fontsize=5.5, color="white" if dark else "black")  # fmt: skip


def _number(value: float, largest: float) -> str:
    """Short, as cells are narrow: of masses three places, without the zero before them."""
    if largest > 1:
        return f"{value:.2f}"
    return "1" if value > 0.9995 else f"{value:.3f}".removeprefix("0")


def _outline(ax: Axes, inside: NDArray[np.bool_], bottom: float) -> None:
    """A line around the union of the cells that are `inside`."""
    edged = np.pad(inside, 1)
    sides = []
    for row, column in np.argwhere(edged):
        x, y = column - 1.5, bottom + row - 1.5
        for (dr, dc), (a, b) in {
            (0, -1): ((0, 0), (0, 1)), (0, 1): ((1, 0), (1, 1)),
            (-1, 0): ((0, 0), (1, 0)), (1, 0): ((0, 1), (1, 1)),
        }.items():  # fmt: skip
            if not edged[row + dr, column + dc]:
                sides.append([(x + a[0], y + a[1]), (x + b[0], y + b[1])])
    halo = [withStroke(linewidth=3.2, foreground="white"), Normal()]
    ax.add_collection(
        LineCollection(sides, colors="black", linewidths=1.5, capstyle="projecting", zorder=4,
                       clip_on=False, path_effects=halo)
    )  # fmt: skip

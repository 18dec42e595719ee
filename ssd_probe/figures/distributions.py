"""Figures 4, 5 and 6: distributions in their text, by rank, and against T_eval."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK, OPEN
from ssd_probe.figures.style import (
    COLUMN_WIDTH,
    FORK_COLOR,
    LOCK_COLOR,
    MONOSPACE,
    OPEN_COLOR,
    T_EVAL,
    bars,
    by_model,
    context_text,
    drawable,
    figure_of,
    legend,
    line,
    new_axes,
    tick_text,
)

STRONGEST, WEAKEST = 12.0, 0.1  # Figure 4: branching of the strongest fork; least opacity
_ADVANCE, _LEADING = 0.602, 1.25  # width of its characters and height of a line, in font sizes


def fig_4(frame: pd.DataFrame, ax: Axes | None = None, columns: int = 64) -> Axes:
    """Figure 4: the text of a sample with its forks, locks and open positions where they stand.

    frame: token (text, in order), label, branching. Monospace, one unit of the axes a character
    cell, lines longer than `columns` wrapped. Forks are outlined, and stronger with the logarithm
    of their branching, up to `STRONGEST` tokens; locks are shaded flat; open positions have a
    dashed outline and no filling.
    """
    require_columns(frame, ["token", "label", "branching"], "Figure 4")
    cells = list(_cells(frame, columns))
    lines = cells[-1].line + 1 if cells else 1
    ax = new_axes(ax, height=0.35 + lines * COLUMN_WIDTH / columns / _ADVANCE * _LEADING)
    ax.set(xlim=(0, columns))
    ax.axis("off")
    keys = [Patch(label=f"fork, {b:g}", **_look(FORK, b)) for b in (1.5, 4, STRONGEST)]
    keys += [Patch(label=kind, **_look(kind, 1)) for kind in (LOCK, OPEN)]
    inches = ax.get_window_extent().width / figure_of(ax).dpi
    keys = keys if inches > 2 else [keys[1], *keys[3:]]  # narrow axes have no room for the scale
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, 0), ncols=len(keys), fontsize=6,
              borderpad=0, columnspacing=1, handletextpad=0.4, handlelength=1.4)  # fmt: skip
    size, room = _fit(ax, columns, lines)
    ax.set(ylim=(room, 0))
    font: dict[str, Any] = {"family": MONOSPACE, "parse_math": False, "in_layout": False}
    for cell in cells:
        if cell.label in (FORK, LOCK, OPEN) and cell.text.strip():
            _mark(ax, cell)
        place = (cell.column, cell.line + 0.5)
        ax.text(*place, cell.text, size=size, va="center_baseline", **font)
    return ax


def fig_5(frame: pd.DataFrame, ax: Axes | None = None, log: bool = False) -> Axes:
    """Figure 5, one panel: ranked token probabilities of one position, the cutoff marked.

    frame: model, rank, token, probability, kept. Bars side by side; a token that truncation
    removes is pale, and a line in the model's style stands after its last kept rank. The ticks
    name the first model's tokens. log: decades, down to 1e-6, in which a lock's tail can be seen.
    """
    require_columns(frame, ["model", "rank", "token", "probability", "kept"], "Figure 5")
    ax = new_axes(ax)
    models = list(by_model(frame))
    for i, (look, rows) in enumerate(models):
        kept = rows["kept"].to_numpy(bool)
        side = i - (len(models) - 1) / 2
        for bar, stays in zip(
            bars(ax, look, rows["rank"], rows["probability"], side, len(models)), kept, strict=True
        ):
            bar.set_alpha(1.0 if stays else 0.35)
        cut = rows["rank"].to_numpy()[kept].max(initial=0) + 0.5
        style = {key: look[key] for key in ("color", "linestyle")}
        ax.axvline(cut + 0.2 * side, linewidth=1, **style)  # apart, where two cuts coincide
    look, rows = models[0]
    names = [tick_text(token) for token in rows["token"]]
    ax.set_xticks(rows["rank"], names, rotation=90, family=MONOSPACE, parse_math=False)
    ax.set(xlabel=f"tokens of {look['name']}, by rank", ylabel="probability")
    ax.grid(False, axis="x")
    if log:
        ax.set_yscale("log")
        ax.set_ylim(1e-6, 1.5)
    legend(ax)
    return ax


def fig_5_pair(frame: pd.DataFrame) -> Figure:
    """Figure 5 whole: a fork's plateau above a lock's spike. frame: as `fig_5`, and label.

    The fork is drawn to show its head, the lock (log axis) to show its tail. With a column context
    the text before stands above each panel.
    """
    require_columns(frame, ["label"], "Figure 5")
    fig, panels = plt.subplots(2, 1, figsize=(COLUMN_WIDTH, 4.6))
    for label, ax in zip((FORK, LOCK), panels, strict=True):
        rows = frame[frame["label"] == label]
        fig_5(rows, ax, log=label == LOCK)
        title_with_context(ax, f"a {label}", rows, width=48)
    panels[1].get_legend().remove()
    return fig


def title_with_context(ax: Axes, title: str, rows: pd.DataFrame, width: int) -> None:
    """`title`, and below it the end of the text before the position, if `rows` know it."""
    text = context_text(rows["context"].iloc[0], width) if "context" in rows else ""
    ax.set_title(f"{title}, after" if text else title, loc="left", pad=14 if text else None)
    if text:
        ax.annotate(f"{text}▏", (0, 1), (0, 4), xycoords="axes fraction", family=MONOSPACE,
                    textcoords="offset points", fontsize=6, parse_math=False,
                    in_layout=False)  # fmt: skip


def fig_6a(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 6a: mean cumulative mass against rank, on an axis of nines. frame: model, rank, miss.

    The line is `miss` on a log axis turned over, so that each step up is one more nine.
    """
    require_columns(frame, ["model", "rank", "miss"], "Figure 6a")
    ax = new_axes(ax)
    for look, rows in by_model(frame):
        line(ax, look, rows["rank"], rows["miss"], marker="")
    ax.set_yscale("log")
    ax.invert_yaxis()
    ax.yaxis.set_major_locator(LogLocator(10))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"$1-10^{{{round(np.log10(y))}}}$"))
    ax.set(xlabel="rank", ylabel="mean cumulative mass", xlim=(0, frame["rank"].max() + 1))
    legend(ax)
    return ax


def fig_6b(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 6b: mean number of surviving tokens. frame: model, temperature, survivors."""
    return _against_temperature(frame, "survivors", "mean surviving tokens", "Figure 6b", ax)


def fig_6c(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 6c: mean entropy after truncation. frame: model, temperature, entropy (nats)."""
    return _against_temperature(frame, "entropy", "mean entropy (nats)", "Figure 6c", ax)


def fig_6d(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Figure 6d: entropy after truncation by top-20 mass. frame: model, bin, entropy, in order."""
    require_columns(frame, ["model", "bin", "entropy"], "Figure 6d")
    ax = new_axes(ax)
    models = list(by_model(frame))
    bins = list(dict.fromkeys(frame["bin"]))
    for i, (look, rows) in enumerate(models):
        places = rows["bin"].map(bins.index)
        bars(ax, look, places, rows["entropy"], i - (len(models) - 1) / 2, len(models))
    names = [name.replace(" ", "\n", 1) for name in bins]
    if "positions" in frame:  # a bar of three positions is not one of thousands
        sizes = frame.drop_duplicates("bin").set_index("bin")["positions"]
        names = [f"{name}\nn={sizes[bin]}" for name, bin in zip(names, bins, strict=True)]
    ax.set_xticks(range(len(bins)), names)
    ax.set_xlim(-0.6, len(bins) - 0.4)  # empty bins keep their place
    ax.set(xlabel="top-20 mass of the position (%)", ylabel="mean entropy (nats)")
    ax.grid(False, axis="x")
    legend(ax)
    return ax


def _against_temperature(
    frame: pd.DataFrame, column: str, ylabel: str, what: str, ax: Axes | None
) -> Axes:
    require_columns(frame, ["model", "temperature", column], what)
    ax = new_axes(ax)
    for look, rows in by_model(frame):
        line(ax, look, rows["temperature"], rows[column])
    ax.set(xlabel=T_EVAL, ylabel=ylabel)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    legend(ax)
    return ax


class _Cell(NamedTuple):
    """A piece of a token on one line of Figure 4, in character cells."""

    column: int
    line: int
    text: str
    label: str
    branching: float


def _cells(frame: pd.DataFrame, columns: int) -> Iterator[_Cell]:
    """Lay the tokens out as text: newlines break, lines of `columns` characters wrap."""
    column = line = 0
    for token, label, branching in frame[["token", "label", "branching"]].itertuples(index=False):
        text = drawable(token.replace("\r", "").replace("\t", "    "))
        if label in (FORK, OPEN) and not token.strip():  # a blank would have no ink to mark
            text = text.replace(" ", "␣").replace("\n", "↵\n")
        for i, rest in enumerate(text.split("\n")):
            if i:
                column, line = 0, line + 1
            while rest:
                if column == columns:
                    column, line = 0, line + 1
                piece, rest = rest[: columns - column], rest[columns - column :]
                yield _Cell(column, line, piece, label, branching)
                column += len(piece)


def _mark(ax: Axes, cell: _Cell) -> None:
    """The background of a token."""
    ink = cell.text.strip()
    start = cell.column + cell.text.index(ink)
    look = _look(cell.label, cell.branching)
    box = Rectangle((start, cell.line + 0.04), len(ink), 0.92, **look)
    box.set_zorder(1 if cell.label == LOCK else 2)  # outlines over what is flat
    ax.add_patch(box)


def _look(label: str, branching: float) -> dict[str, Any]:
    """A patch of a kind: outlined and stronger with branching, flat, or a dashed outline."""
    if label == LOCK:
        return {"facecolor": LOCK_COLOR, "linewidth": 0}
    if label == OPEN:
        return {"facecolor": "none", "edgecolor": OPEN_COLOR, "linewidth": 0.7, "linestyle": "--"}
    share = np.log(max(branching, 1)) / np.log(STRONGEST)
    strength = float(np.clip(WEAKEST + (1 - WEAKEST) * share, WEAKEST, 1))
    return {"facecolor": (FORK_COLOR, strength), "edgecolor": "black", "linewidth": 0.5}


def _fit(ax: Axes, columns: int, lines: int) -> tuple[float, float]:
    """Font size, in points, that fills the cells of these axes, and their height in lines."""
    figure = figure_of(ax)
    figure.draw_without_rendering()  # the layout engine moves the axes only when it draws
    extent = ax.get_window_extent()
    width, height = (72 / figure.dpi * side for side in (extent.width, extent.height))
    size = min(width / columns / _ADVANCE, height / lines / _LEADING)
    return size, height / size / _LEADING

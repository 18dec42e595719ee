"""The paper's figures, drawn from frames that are already in plot form: nothing is computed here.

    with paper_style():
        ax = fig_6a(frame)
        save(ax.figure, "figures/fig_6a", "Figure 6a. Mean cumulative mass by rank.")

Base is amber, dashed or hatched; SSD is solid blue; the control is grey-green and dotted. Line
style, marker and hatch repeat what the colour says, so the figures survive grey print. Every
function draws into `ax`, or into a new figure of one column's width, and returns the Axes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK

COLUMN_WIDTH = 3.3  # inches: one column of a two-column paper
PAGE_WIDTH = 6.9  # both columns
_SSD = {"name": "SSD", "color": "#0072B2", "linestyle": "-", "marker": "s", "hatch": ""}
MODELS: dict[str, dict[str, Any]] = {
    "base": {"name": "base", "color": "#D98E04", "linestyle": "--", "marker": "o", "hatch": "////"},
    "ssd": _SSD,
    "tuned": _SSD | {"name": "tuned"},
    "control": {"name": "control", "color": "#5F8575", "linestyle": ":", "marker": "^",
                "hatch": ".."},
}  # fmt: skip
_OTHER = {"linestyle": "-.", "marker": "D", "hatch": "xx"}
_OTHER_COLORS = ("#CC79A7", "#56B4E9", "#444444")
FORK_COLOR, LOCK_COLOR = "#E58FB1", "#BFE3D0"
MONOSPACE = "DejaVu Sans Mono"
_ADVANCE, _LEADING = 0.602, 1.25  # width of its characters and height of a line, in font sizes
T_EVAL = r"evaluation temperature $T_{\mathrm{eval}}$"
_STYLE: dict[Any, Any] = {
    "figure.dpi": 150, "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4, "grid.color": "#DDDDDD",
    "legend.frameon": False, "legend.handlelength": 2.4,
    "lines.linewidth": 1.4, "lines.markersize": 3.2, "hatch.linewidth": 0.6,
    "text.hinting": "none",  # Figure 4: whole-pixel advances would drift out of its cells
    "pdf.fonttype": 42,  # text in the PDF stays text
}  # fmt: skip


@contextmanager
def paper_style() -> Iterator[None]:
    """Fonts, widths and grid of the figures, for the block only."""
    with plt.rc_context(_STYLE):
        yield


def save(fig: Figure, stem: str | Path, caption: str) -> list[Path]:
    """Write `stem`.png (200 dpi), `stem`.pdf and the caption as `stem`.txt; returns the paths.

    No date and no version go into the files: the same data gives the same bytes.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: it would cut "fig_T0.8" short.
    png, pdf, txt = (stem.with_name(stem.name + end) for end in (".png", ".pdf", ".txt"))
    fig.savefig(png, dpi=200, metadata={"Software": None})
    fig.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    txt.write_text(caption.strip() + "\n", encoding="utf-8")
    return [png, pdf, txt]


def fig_4(frame: pd.DataFrame, ax: Axes | None = None, columns: int = 64) -> Axes:
    """Figure 4: the text of a sample with its forks and locks marked where they stand.

    frame: token (text, in order), label, branching. Monospace, one unit of the axes a character
    cell, lines longer than `columns` wrapped. Forks are outlined, and stronger the more they
    branch; locks are shaded flat.
    """
    require_columns(frame, ["token", "label", "branching"], "Figure 4")
    cells = list(_cells(frame, columns))
    lines = cells[-1].line + 1 if cells else 1
    ax = new_axes(ax, height=0.35 + lines * COLUMN_WIDTH / columns / _ADVANCE * _LEADING)
    ax.set(xlim=(0, columns))
    ax.axis("off")
    fork = Patch(facecolor=FORK_COLOR, edgecolor="black", linewidth=0.5, label="fork")
    lock = Patch(facecolor=LOCK_COLOR, label="lock")
    ax.legend(handles=[fork, lock], loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    size, room = _fit(ax, columns, lines)
    ax.set(ylim=(room, 0))
    font: dict[str, Any] = {"family": MONOSPACE, "parse_math": False, "in_layout": False}
    for cell in cells:
        if cell.label in (FORK, LOCK) and cell.text.strip():
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

    The fork is drawn to show its head, the lock (log axis) to show its tail.
    """
    require_columns(frame, ["label"], "Figure 5")
    fig, panels = plt.subplots(2, 1, figsize=(COLUMN_WIDTH, 4.4))
    for label, ax in zip((FORK, LOCK), panels, strict=True):
        fig_5(frame[frame["label"] == label], ax, log=label == LOCK)
        ax.set_title(f"a {label}", loc="left")
    panels[1].get_legend().remove()
    return fig


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
    names = bins
    if "positions" in frame:  # a bar of three positions is not one of thousands
        sizes = frame.drop_duplicates("bin").set_index("bin")["positions"]
        names = [f"{name}\nn={sizes[name]}" for name in bins]
    ax.set_xticks(range(len(bins)), names)
    ax.set_xlim(-0.6, len(bins) - 0.4)  # empty bins keep their place
    ax.set(xlabel="top-20 mass of the position (%)", ylabel="mean entropy (nats)")
    ax.grid(False, axis="x")
    legend(ax)
    return ax


def new_axes(ax: Axes | None, height: float = 2.3) -> Axes:
    """`ax`, or the axes of a new figure of one column's width and `height` inches."""
    return ax if ax is not None else plt.subplots(figsize=(COLUMN_WIDTH, height))[1]


def figure_of(axes: Axes) -> Figure:
    """The figure that axes are in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def by_model(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Look and rows of each model: base, SSD, control, then any others as they come."""
    others = [name for name in dict.fromkeys(frame["model"]) if name not in MODELS]
    looks = MODELS | {
        name: {"name": str(name), "color": _OTHER_COLORS[i % len(_OTHER_COLORS)], **_OTHER}
        for i, name in enumerate(others)
    }
    for name, look in looks.items():
        rows = frame[frame["model"] == name]
        if len(rows):
            yield look, rows


def bars(
    ax: Axes, look: dict[str, Any], x: pd.Series, heights: pd.Series, side: float, models: int
) -> BarContainer:
    """One model's bars of a group of `models`; `side` is its place from the group's middle."""
    width = 0.8 / models
    style = {"facecolor": look["color"], "edgecolor": "white", "hatch": look["hatch"]}
    return ax.bar(x + side * width, heights, width, label=look["name"], linewidth=0.4, **style)


def line(ax: Axes, look: dict[str, Any], x: pd.Series, y: pd.Series, **kwargs: Any) -> None:
    """A labelled line in a model's look."""
    style = {key: look[key] for key in ("color", "linestyle", "marker")}
    ax.plot(x, y, label=look["name"], **(style | kwargs))


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


def percent_axis(axis: Axis) -> None:
    """Ticks of a fraction as "42.5 %"."""
    axis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))


def legend_above(ax: Axes, columns: int = 3) -> None:
    """The legend on top of the axes: for figures that may have data anywhere below."""
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns)


def legend(ax: Axes) -> None:
    """The legend where it covers least."""
    ax.legend(loc="best", borderaxespad=0.3)


@lru_cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(MONOSPACE)).get_charmap())


def drawable(text: str) -> str:
    """The text with characters that the font lacks as boxes: matplotlib would warn at each."""
    return "".join(c if c == "\n" or ord(c) in _glyphs() else "□" for c in text)


def tick_text(token: str) -> str:
    """A token as a tick label: blanks made visible, long ones cut."""
    shown = drawable(token.replace("\n", "↵").replace("\t", "→").replace(" ", "␣"))
    return shown if len(shown) <= 9 else shown[:8] + "…"


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
        if label == FORK and not token.strip():  # a blank fork would have no ink to mark
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
    """The background of a fork or a lock: outlined and stronger with branching, or flat."""
    ink = cell.text.strip()
    start = cell.column + cell.text.index(ink)
    box = Rectangle((start, cell.line + 0.04), len(ink), 0.92, facecolor=LOCK_COLOR, linewidth=0)
    if cell.label == FORK:
        strength = float(np.clip(0.25 + 0.25 * (cell.branching - 1), 0.25, 1))
        box.set(facecolor=(FORK_COLOR, strength), edgecolor="black", linewidth=0.5, zorder=2)
    ax.add_patch(box)


def _fit(ax: Axes, columns: int, lines: int) -> tuple[float, float]:
    """Font size, in points, that fills the cells of these axes, and their height in lines."""
    figure = figure_of(ax)
    figure.draw_without_rendering()  # the layout engine moves the axes only when it draws
    extent = ax.get_window_extent()
    width, height = (72 / figure.dpi * side for side in (extent.width, extent.height))
    size = min(width / columns / _ADVANCE, height / lines / _LEADING)
    return size, height / size / _LEADING

"""The paper's figures, drawn from frames that are already in plot form: nothing is computed here.

    with paper_style():
        ax = fig_6a(frame)
        save(ax.figure, "figures/fig_6a", "Figure 6a. Mean cumulative mass by rank.")

Base is amber, dashed or hatched; SSD is solid blue; the control is grey-green and dotted. Line
style, marker and hatch repeat what the colour says, so the figures survive grey print. Every
function draws into `ax`, or into a new figure of one column's width, and returns the Axes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ssd_probe.analysis.labels import COLORS, FORK, LOCK, OPEN

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
_OTHERS = (  # as they come: rivals, arms by their names
    ("#CC79A7", "-.", "D", "xx"), ("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "v", "\\\\\\\\"),
    ("#444444", (0, (5, 1)), "P", "++"), ("#009E73", "-.", "X", "oo"), ("#D55E00", ":", "<", "--"),
    ("#8C6BB1", (0, (1, 1)), ">", "||"), ("#A6761D", "--", "h", "**"), ("#8A8A8A", "-", "p", "OO"),
    ("#B0A200", (0, (7, 2, 1, 2)), "d", "..."), ("#7B3F00", (0, (2, 3)), "s", "///"),
)  # fmt: skip
FORK_COLOR, LOCK_COLOR, OPEN_COLOR = COLORS[FORK], COLORS[LOCK], COLORS[OPEN]
MONOSPACE = "DejaVu Sans Mono"
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
    """Fonts, widths and grid of the figures, for the block only.

    The backend is loaded before: Jupyter's turns interactive drawing on when it is, and within the
    block that would be undone at its end, so that only a notebook's first figure were ever shown.
    """
    plt.draw_if_interactive()
    with plt.rc_context(_STYLE):
        yield


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
        name: {"name": str(name)}
        | dict(zip(("color", "linestyle", "marker", "hatch"), look, strict=True))
        for name, look in zip(others, cycle(_OTHERS), strict=False)
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
    shown = _visible(token)
    return shown if len(shown) <= 9 else shown[:8] + "…"


def context_text(text: str, width: int) -> str:
    """The end of the text before a token on one line of `width` characters, indents shortened."""
    shown = _visible(re.sub(r" {2,}", "  ", text).replace(" ", "\u00a0"))
    return shown if len(shown) <= width else "…" + shown[len(shown) - width + 1 :]


def _visible(text: str) -> str:
    return drawable(text.replace("\n", "↵").replace("\t", "→").replace(" ", "␣"))

"""Figures as files."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_probe.analysis.frames import Missing
from ssd_probe.errors import UserError
from ssd_probe.executors import ALONE, Crew
from ssd_probe.figures.style import figure_of, paper_style


class Plan(NamedTuple):
    """A figure to be: `draw(data)` draws what is already in plot form, and words its caption."""

    stem: str
    data: Any  # or `Missing`
    draw: Callable[[Any], tuple[Figure | Axes, str]]


class Saved(NamedTuple):
    """The files that were written, and (figure, why it is missing) for the rest."""

    paths: list[Path]
    missing: list[tuple[str, str]]

    def lines(self) -> list[str]:
        """As a person reads it."""
        return [*map(str, self.paths), *(f"no {name}: {why}" for name, why in self.missing)]


def save_all(plans: Iterable[Plan], out: Path, crew: Crew = ALONE) -> Saved:
    """Draw each plan in the paper's style and save it into `out`; the PNG files are returned.

    A plan's frame is saved beside its figure as CSV. Missing is
    what has no data, and what cannot be drawn from it (UserError). A figure is closed
    before the next one is drawn, also where drawing or saving it fails. crew: of this machine; for
    several processes what a plan holds must be what pickle can carry.
    Raises UserError as `save`.
    """
    paths, missing = [], []
    for stem, path, why in crew.map(_made, ((plan, out) for plan in plans)):
        if path is None:
            missing.append((stem, why))
        else:
            paths.append(path)
    return Saved(paths, missing)


def _made(plan: Plan, out: Path) -> tuple[str, Path | None, str]:
    """The plan's stem, its PNG file, or None and why there is none."""
    stem, data, draw = plan
    if isinstance(data, Missing):
        return stem, None, data.why
    opened = set(plt.get_fignums())
    with paper_style():
        try:
            figure, caption = draw(data)
        except UserError as error:
            return stem, None, str(error)
        else:
            figure = figure_of(figure) if isinstance(figure, Axes) else figure
            path = save(figure, out / stem, caption)[0]
            if isinstance(data, pd.DataFrame):
                data.to_csv(out / f"{stem}.csv", index=False)
            return stem, path, ""
        finally:
            for number in set(plt.get_fignums()) - opened:
                plt.close(number)


def save(fig: Figure, stem: str | Path, caption: str) -> list[Path]:
    """Write `stem`.png (200 dpi), .pdf, .svg and the caption as .txt; returns the paths.

    No date and no version go into the files: the same data gives the same bytes.
    Raises UserError where they cannot be written.
    """
    stem = Path(stem)
    # Not with_suffix: it would cut "fig_T0.8" short.
    ends = (".png", ".pdf", ".svg", ".txt")
    png, pdf, svg, txt = (stem.with_name(stem.name + end) for end in ends)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(png, dpi=200, metadata={"Software": None})
        with _laid_out(fig):
            fig.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
            fig.savefig(svg, metadata={"Date": None, "Creator": None})
        svg.write_text(_numbered(svg.read_text(encoding="utf-8")), encoding="utf-8")
        txt.write_text(caption.strip() + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{error.filename or stem}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    return [png, pdf, svg, txt]


@contextmanager
def _laid_out(fig: Figure) -> Iterator[None]:
    """What was drawn once keeps its layout, which is slow to make."""
    engine = fig.get_layout_engine()
    fig.set_layout_engine("none")
    try:
        yield
    finally:
        fig.set_layout_engine(engine)


def _numbered(svg: str) -> str:
    """Random names, or hashes of coordinates to the last bit, as numbers in their order."""
    found = dict.fromkeys(re.findall(r'id="([a-z][0-9a-f]{10})"', svg))
    numbers = {name: f"id{number}" for number, name in enumerate(found)}
    return re.sub(r"\b[a-z][0-9a-f]{10}\b", lambda name: numbers.get(name[0], name[0]), svg)

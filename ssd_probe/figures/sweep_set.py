"""The paper's sweep figures with their captions, as files: of a sweep, and of published values.

drawn = draw_sweep(sweep_pictures(read_sweep("sweep.csv")), Path("figures"))
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_probe.analysis.sweeps.plot_data import Difficulty, Effective, HeatMaps, Margins, Stress
from ssd_probe.analysis.sweeps.published import PublishedPictures
from ssd_probe.figures import pass_at_k, temperatures
from ssd_probe.figures.saving import Plan, Saved, save_all
from ssd_probe.figures.style import COLUMN_WIDTH, PAGE_WIDTH

Drawn = tuple[Figure | Axes, str]  # with its caption
_CHOSEN = "each model at the setting that was best for it on these same problems (optimistic)"
_GROUP_NAMES = {"all": "overall"}
_TITLES = {"all": "pass@1 overall", "medium": "pass@1 medium", "hard": "pass@1 hard"}


def draw_sweep(pictures: Mapping[str, Any], out: Path) -> Saved:
    """Draw what a sweep has data for into `out`. pictures: of `sweep_pictures`."""
    plain, stressed = "Base (hatched) and SSD (solid)", "The stress test: base and SSD"
    draw: dict[str, Callable[[Any], Drawn]] = {
        "fig_1": partial(_difficulty, f"Figure 1. {plain}"),
        "fig_2": _margins,
        "fig_3a": partial(_effective, "Figure 3a"),
        "fig_3b": _heat_map,
        "fig_7": _stress,
        "fig_9": partial(_effective, "Figure 9"),
        "fig_10": partial(_heat_maps, "Figure 10"),
        "fig_11": partial(_heat_maps, "Figure 11"),
        "fig_15": partial(_difficulty, f"Figure 15. {stressed}"),
    }
    return save_all([Plan(stem, pictures[stem], how) for stem, how in draw.items()], out)


def draw_published(shown: PublishedPictures, out: Path) -> Saved:
    """Draw the paper's Figure 1 and Figure 2 as bars into `out`."""
    plans = [Plan("published_fig_1", shown, _published_scores),
             Plan("published_fig_2", shown, _published_levels)]  # fmt: skip
    return save_all(plans, out)


def _published_scores(shown: PublishedPictures) -> Drawn:
    first = shown.scores[shown.scores["k"] == 1]
    first = first.assign(name=first["family"].map(_two_lines))
    return pass_at_k.fig_1_panels(first, _TITLES, own=shown.own), (
        f"Figure 1. pass@1 of base and SSD and the gain in points; {shown.benchmark}; "
        f"{shown.source}, Table 2; decoding of Tables 3 and 4.{_beside(shown)}"
    )


def _published_levels(shown: PublishedPictures) -> Drawn:
    levels = shown.levels.assign(name=shown.levels["name"].map(_two_lines))
    return pass_at_k.fig_2_bars(levels, own=shown.own), (
        "Figure 2 as bars. pass@1 of the base as decoded in Table 4, of the base at its own "
        "best T_eval (SSD less the printed margin), and of SSD; the number above is the "
        f"margin in points; {shown.benchmark}; {shown.source}.{_beside(shown)}"
    )


def _beside(shown: PublishedPictures) -> str:
    return f" Right of the line: your own, {_CHOSEN}." if shown.own else ""


def _two_lines(name: str) -> str:
    """A model's name for under a bar."""
    for mark, broken in (("yours: ", "yours:\n"), ("-Instruct", "\nInstruct"),
                         ("-Thinking", "\nThinking"), (" (high)", "\n(high)")):  # fmt: skip
        name = name.replace(mark, broken)
    return "\n".join(line if len(line) <= 16 else line[:15] + "…" for line in name.split("\n"))


def _difficulty(what: str, shown: Difficulty) -> Drawn:
    """Figures 1 and 15: a panel a k, bars by group; with rivals as wide as a page."""
    whom = " ".join(f"pass@{k}: {_listed(known)}" for k, known in shown.settings.items())
    told = (
        f"{what} by difficulty, the gain in points above; {_CHOSEN}. {whom} "
        f"{_count(shown.problems)}"
    )
    ((k, frame), *more) = shown.panels.items()
    if frame["model"].nunique() > 2 and not more:
        names = frame["group"].map(lambda group: _GROUP_NAMES.get(group, group))
        others = told.replace("(solid)", "(solid), and the base by other rules")
        return pass_at_k.fig_rivals(frame.assign(name=names)), others
    width = COLUMN_WIDTH if len(shown.panels) == 1 else PAGE_WIDTH
    fig, panels = plt.subplots(1, len(shown.panels), figsize=(width, 2.3), squeeze=False)
    for ax, (k, frame) in zip(panels[0], shown.panels.items(), strict=True):
        names = frame["group"].map(lambda group: _GROUP_NAMES.get(group, group))
        pass_at_k.fig_1(frame.assign(name=names), ax)
        ax.set_ylabel(f"pass@{k}")
    return fig, told


def _margins(shown: Margins) -> Drawn:
    group, k = shown.chosen_by
    return pass_at_k.fig_2_panels(shown.panels), (
        "Figure 2. pass@k of the base against T_eval, and the level of SSD at one setting, that of "
        f"its best pass@{k} of '{group}' on these same problems (optimistic); shaded: SSD "
        "less the best point of the base (star), in points; band and whisker: intervals of the "
        f"table. {_listed(shown.settings)} {_count(shown.problems)}"
    )


def _effective(what: str, shown: Effective) -> Drawn:
    told = "; ".join(_fit_text(fit) for fit in shown.fits.to_dict("records"))
    return temperatures.fig_3a(shown.points, shown.fits, shown.curves, shown.base), (
        f"{what}. pass@{shown.k} against T_eff = T_train * T_eval, a dot a cell of the sweep, by "
        f"training truncation; lines: quadratic fits; dashed: the base at its best. {told}. "
        f"{_count(shown.problems)}"
    )


def _heat_map(shown: HeatMaps) -> Drawn:
    ((setting, grid),) = shown.grids.items()
    return temperatures.fig_3b(grid), (
        f"Figure 3b. pass@{shown.k} (%) over T_train and T_eval, trained with {setting}; framed: "
        f"the best; hatched: not run. {_count(shown.problems)}"
    )


def _heat_maps(what: str, shown: HeatMaps) -> Drawn:
    return temperatures.fig_3b_panels(shown.grids), (
        f"{what}. pass@{shown.k} (%) over T_train and T_eval, a panel a training truncation, one "
        f"scale; framed: the best of each; hatched: not run. {_count(shown.problems)}"
    )


def _stress(shown: Stress) -> Drawn:
    figure: Figure | Axes
    if shown.sample is None:
        figure, left = temperatures.fig_7(shown.curves), ""
    else:
        figure = temperatures.fig_7_panels(shown.curves, shown.sample)
        left = "Left: the start of a training sample. "
    return figure, (
        f"Figure 7. {left}The stress test: pass@k against T_eval of the base and of a model "
        f"trained on samples without truncation. {_listed(shown.settings)} "
        f"{_count(shown.problems)}"
    )


def _listed(settings: list[str]) -> str:
    return "; ".join(settings) + "."


def _count(problems: int | None) -> str:
    return "" if problems is None else f"{problems} problems."


def _fit_text(fit: dict) -> str:
    if pd.isna(fit["r2"]):
        return f"{fit['setting']}: {fit['points']} points, no fit"
    text = f"{fit['setting']}: {fit['points']} points, R^2 = {fit['r2']:.2f}, "
    if pd.isna(fit["peak"]):
        return text + "no peak"
    if not fit["inside"]:
        return text + f"its peak, {fit['peak']:.2f}, is outside the sweep"
    known = not pd.isna(fit["low"])
    interval = f"[{fit['low']:.2f}, {fit['high']:.2f}]" if known else "(interval unbounded)"
    return text + f"peak at T_eff = {fit['peak']:.2f} {interval}"

"""A sweep in plot form: what Figures 1-3, 7, 9-11 and 15 show, and what their captions name."""

from typing import Any, NamedTuple

import pandas as pd

from ssd_probe.analysis.frames import attempt
from ssd_probe.analysis.sweeps import summaries
from ssd_probe.analysis.sweeps.table import check_sweep
from ssd_probe.errors import UserError


class Difficulty(NamedTuple):
    """Figures 1 and 15."""

    panels: dict[int, pd.DataFrame]  # by k: `by_difficulty`
    settings: dict[int, list[str]]  # by k: `settings_of`
    problems: int | None


class Margins(NamedTuple):
    """Figure 2."""

    panels: dict[tuple[str, int], tuple[pd.DataFrame, summaries.Margin]]  # by group and k
    chosen_by: tuple[str, int]  # the student's level has the settings best for this group and k
    settings: list[str]
    problems: int | None


class Effective(NamedTuple):
    """Figures 3a and 9."""

    k: int
    points: pd.DataFrame  # `with_effective_temperature`
    fits: pd.DataFrame
    curves: pd.DataFrame
    base: float | None  # the base at its best
    problems: int | None


class HeatMaps(NamedTuple):
    """Figures 3b, 10 and 11."""

    k: int
    grids: dict[str, pd.DataFrame]  # by training truncation
    problems: int | None


class Stress(NamedTuple):
    """Figure 7."""

    curves: pd.DataFrame
    sample: str | None  # that the model was trained on
    settings: list[str]
    problems: int | None


def sweep_pictures(sweep: pd.DataFrame, sample: str | None = None) -> dict[str, Any]:
    """By figure ("fig_1", ...) what it shows: one of the classes here, or `Missing`.

    sample: text that the stress test's model was trained on, for Figure 7.
    Raises UserError when it is no sweep table (`check_sweep`).
    """
    sweep = check_sweep(sweep)
    ks = [int(k) for k in sorted(sweep["k"].unique())]
    first, last = ks[0], ks[-1]
    return {
        "fig_1": attempt(lambda: _difficulty(sweep, [first])),
        "fig_2": attempt(lambda: _margins(sweep, ks)),
        "fig_3a": attempt(lambda: _effective(sweep, first)),
        "fig_3b": attempt(lambda: _heat_maps(sweep, first, most=1)),
        "fig_7": attempt(lambda: _stress(sweep, sample)),
        "fig_9": attempt(lambda: _effective(sweep, _second(ks))),
        "fig_10": attempt(lambda: _heat_maps(sweep, first)),
        "fig_11": attempt(lambda: _heat_maps(sweep, _second(ks))),
        "fig_15": attempt(lambda: _difficulty(sweep, [first, last], summaries.stress_rows(sweep))),
    }


def settings_of(frame: pd.DataFrame) -> list[str]:
    """Checkpoint and settings of each model; for a curve those of its best point."""
    tops = [part.loc[part["estimate"].idxmax()] for _, part in frame.groupby("model")]
    return [f"{top['checkpoint']} {top['setting']}" for top in tops]


def _difficulty(
    sweep: pd.DataFrame, ks: list[int], student: pd.DataFrame | None = None
) -> Difficulty:
    panels = {k: summaries.by_difficulty(sweep, k, student) for k in dict.fromkeys(ks)}
    settings = {k: settings_of(frame) for k, frame in panels.items()}
    return Difficulty(panels, settings, _problems(panels[ks[0]]))


def _margins(sweep: pd.DataFrame, ks: list[int]) -> Margins:
    groups = [group for group in ("all", "hard") if group in set(sweep["group"])]
    if not groups:
        raise UserError("the sweep holds neither the group 'all' nor 'hard'")
    group, k = groups[0], ks[0]
    chosen = summaries.best(summaries.students_of(summaries.select(sweep, group, k)))
    panels = {(g, n): summaries.against_base(sweep, g, n, chosen) for g in groups for n in ks}
    frame = panels[group, k][0]
    return Margins(panels, (group, k), settings_of(frame), _problems(frame))


def _effective(sweep: pd.DataFrame, k: int) -> Effective:
    rows = summaries.select(sweep, "all", k)
    points = summaries.with_effective_temperature(rows)
    fits, curves = summaries.fit_settings(points)
    base = rows[rows["T_train"].isna() & (rows["policy"] == "")]
    level = float(base["estimate"].max()) if len(base) else None
    return Effective(k, points, fits, curves, level, _problems(points))


def _heat_maps(sweep: pd.DataFrame, k: int, most: int | None = None) -> HeatMaps:
    grids = list(summaries.grids(sweep, "all", k).items())
    return HeatMaps(k, dict(grids[:most]), _problems(sweep))


def _stress(sweep: pd.DataFrame, sample: str | None) -> Stress:
    curves = summaries.stress_curves(sweep)
    return Stress(curves, sample, settings_of(curves), _problems(curves))


def _problems(frame: pd.DataFrame) -> int | None:
    """How many problems "all" holds, or the most of any group."""
    most = frame["problems"].max()
    return None if pd.isna(most) else int(most)


def _second(ks: list[int]) -> int:
    if len(ks) < 2:
        raise UserError(f"the sweep holds pass@{ks[0]} alone: a second k is needed")
    return ks[-1]

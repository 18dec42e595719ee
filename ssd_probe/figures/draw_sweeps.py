"""The paper's sweep figures and Table 2 as files: from a sweep table, and from published values.

paths, missing = draw_sweep(read_sweep("sweep.csv"), Path("figures"))
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssd_probe.analysis.sweeps import summaries as sweeps
from ssd_probe.analysis.sweeps.published import published
from ssd_probe.analysis.sweeps.table import check_sweep
from ssd_probe.analysis.sweeps.tables import sweep_table, table_2, write_table
from ssd_probe.errors import UserError
from ssd_probe.figures import sweeps as sweep_figures
from ssd_probe.figures import temperatures as temperature_figures
from ssd_probe.figures.saving import save
from ssd_probe.figures.style import COLUMN_WIDTH, PAGE_WIDTH, figure_of, paper_style

Drawing = tuple[Figure, str]  # a figure and its caption
_CHOSEN = "each model at the setting that was best for it on these same problems (optimistic)"
_GROUP_NAMES = {"all": "overall"}


def draw_sweep(
    sweep: pd.DataFrame, out: Path, sample: str | None = None
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw what a sweep table has data for into `out`, and the table as Markdown and LaTeX.

    sample: text that the stress test's model was trained on, shown in Figure 7.
    Returns the PNG and table files, and (figure, why it is missing) for the rest.
    Raises UserError when it is no sweep table (`check_sweep`).
    """
    sweep = check_sweep(sweep)
    ks = sorted(sweep["k"].unique())
    first, last = ks[0], ks[-1]
    plans: dict[str, Callable[[], Drawing]] = {
        "fig_1": lambda: _difficulty(sweep, [first], "Figure 1"),
        "fig_2": lambda: _margins(sweep, ks),
        "fig_3a": lambda: _effective(sweep, first, "Figure 3a"),
        "fig_3b": lambda: _heat_map(sweep, first),
        "fig_7": lambda: _stress(sweep, sample),
        "fig_9": lambda: _effective(sweep, _second(ks), "Figure 9"),
        "fig_10": lambda: _heat_maps(sweep, first, "Figure 10"),
        "fig_11": lambda: _heat_maps(sweep, _second(ks), "Figure 11"),
        "fig_15": lambda: _difficulty(sweep, [first, last], "Figure 15", stressed=True),
    }
    paths, missing = [], []
    with paper_style():
        for stem, plan in plans.items():
            try:
                figure, caption = plan()
            except UserError as error:
                missing.append((stem, str(error)))
                continue
            paths.append(save(figure, out / stem, caption)[0])
            plt.close(figure)
    return [*paths, *write_table(sweep_table(sweep), out / "sweep")], missing


def draw_published(out: Path, sweep: pd.DataFrame | None = None) -> list[Path]:
    """Draw the paper's Figure 1, Figure 2 as bars, and Table 2 into `out`; returns the files.

    sweep: a sweep table whose base and best student stand beside the paper's models.
    Raises UserError when it is no sweep table, or has no base, student or pass@1 of "all".
    """
    known = published()
    own = pd.DataFrame() if sweep is None else own_scores(check_sweep(sweep))
    scores = pd.concat([known.table_2, own], ignore_index=True) if len(own) else known.table_2
    beside = f" Right of the line: your own, {_CHOSEN}." if len(own) else ""
    first = scores[scores["k"] == 1].rename(columns={"family": "name"})
    first = first.assign(name=first["name"].map(_two_lines))
    titles = {"all": "pass@1 overall", "medium": "pass@1 medium", "hard": "pass@1 hard"}
    levels = _decode_only(known.table_2, known.margins)
    if sweep is not None:
        levels = pd.concat([levels, own_level(check_sweep(sweep))], ignore_index=True)
    with paper_style():
        one = sweep_figures.fig_1_panels(first, titles, own=1 if len(own) else 0)
        caption = (
            f"Figure 1. pass@1 of base and SSD and the gain in points; {known.benchmark}; "
            f"{known.source}, Table 2; decoding of Tables 3 and 4.{beside}"
        )
        paths = [save(one, out / "published_fig_1", caption)[0]]
        two = figure_of(sweep_figures.fig_2_bars(levels, own=1 if len(own) else 0))
        caption = (
            "Figure 2 as bars. pass@1 of the base as decoded in Table 4, of the base at its own "
            "best T_eval (SSD less the printed margin), and of SSD; the number above is the "
            f"margin in points; {known.benchmark}; {known.source}.{beside}"
        )
        paths.append(save(two, out / "published_fig_2", caption)[0])
        plt.close(one)
        plt.close(two)
    return [*paths, *write_table(table_2(scores), out / "published_table_2")]


def own_scores(sweep: pd.DataFrame) -> pd.DataFrame:
    """A sweep's base and best student as rows of `published().table_2`; k's best each on "all".

    Raises UserError without a base, a student or pass@1 of "all".
    """
    parts = [sweeps.by_difficulty(sweep, k) for k in sorted(set(sweep["k"]) & {1, 5} | {1})]
    scores = pd.concat(parts, ignore_index=True).assign(family=_own_name(sweep))
    return scores[["family", "model", "group", "k", "estimate", "low", "high"]]


def own_level(sweep: pd.DataFrame) -> pd.DataFrame:
    """A sweep's base and best student as a row of `sweep_figures.fig_2_bars`.

    A sweep does not say which of the base's settings is its default: `base` is NaN.
    """
    _, margin = sweeps.against_base(sweep, "all", 1)
    level = {"name": _two_lines(_own_name(sweep)), "base": float("nan"), "best": margin.base}
    return pd.DataFrame([level | {"ssd": margin.student, "margin": margin.gain}])


def _own_name(sweep: pd.DataFrame) -> str:
    return f"yours: {sweeps.best(sweeps.students_of(sweeps.select(sweep, 'all', 1)))['model']}"


def _two_lines(name: str) -> str:
    """A model's name for under a bar."""
    for mark, broken in (("yours: ", "yours:\n"), ("-Instruct", "\nInstruct"),
                         ("-Thinking", "\nThinking"), (" (high)", "\n(high)")):  # fmt: skip
        name = name.replace(mark, broken)
    return "\n".join(line if len(line) <= 16 else line[:15] + "…" for line in name.split("\n"))


def _decode_only(table: pd.DataFrame, margins: dict[str, float]) -> pd.DataFrame:
    """Base, its best decoding (SSD less the printed margin) and SSD: pass@1 of all, by family."""
    first = table[(table["k"] == 1) & (table["group"] == "all")]
    wide = first.pivot(index="family", columns="model", values="estimate").loc[list(margins)]
    gains = pd.Series(margins)
    wide = wide.assign(best=wide["ssd"] - gains, margin=gains, name=wide.index.map(_two_lines))
    return wide[["name", "base", "best", "ssd", "margin"]].reset_index(drop=True)


def _difficulty(sweep: pd.DataFrame, ks: list[int], what: str, stressed: bool = False) -> Drawing:
    """Figures 1 and 15: a panel a k, bars by group."""
    student = sweeps.stress_rows(sweep) if stressed else None
    frames = {k: sweeps.by_difficulty(sweep, k, student) for k in dict.fromkeys(ks)}
    width = COLUMN_WIDTH if len(frames) == 1 else PAGE_WIDTH
    fig, panels = plt.subplots(1, len(frames), figsize=(width, 2.3), squeeze=False)
    for ax, (k, frame) in zip(panels[0], frames.items(), strict=True):
        names = frame["group"].map(lambda group: _GROUP_NAMES.get(group, group))
        sweep_figures.fig_1(frame.assign(name=names), ax)
        ax.set_ylabel(f"pass@{k}")
    subject = "The stress test: base and SSD" if stressed else "Base (hatched) and SSD (solid)"
    whom = " ".join(f"pass@{k}: {_settings(frame)}" for k, frame in frames.items())
    return fig, (
        f"{what}. {subject} by difficulty, the gain in points above; {_CHOSEN}. {whom} "
        f"{_problems(frames[ks[0]])}"
    )


def _margins(sweep: pd.DataFrame, ks: list[int]) -> Drawing:
    groups = [group for group in ("all", "hard") if group in set(sweep["group"])]
    if not groups:
        raise UserError("the sweep holds neither the group 'all' nor 'hard'")
    chosen = sweeps.best(sweeps.students_of(sweeps.select(sweep, groups[0], ks[0])))
    panels = {
        (group, k): sweeps.against_base(sweep, group, k, chosen) for group in groups for k in ks
    }
    first = panels[groups[0], ks[0]][0]
    return sweep_figures.fig_2_panels(panels), (
        "Figure 2. pass@k of the base against T_eval, and the level of SSD at one setting, that of "
        f"its best pass@{ks[0]} of '{groups[0]}' on these same problems (optimistic); shaded: SSD "
        "less the best point of the base (star), in points; band and whisker: intervals of the "
        f"table. {_settings(first)} {_problems(first)}"
    )


def _effective(sweep: pd.DataFrame, k: int, what: str) -> Drawing:
    rows = sweeps.select(sweep, "all", k)
    points = sweeps.with_effective_temperature(rows)
    fits, curves = sweeps.fit_settings(points)
    base = rows[rows["T_train"].isna()]
    level = float(base["estimate"].max()) if len(base) else None
    figure = figure_of(temperature_figures.fig_3a(points, fits, curves, level))
    told = "; ".join(_fit_text(fit) for fit in fits.to_dict("records"))
    return figure, (
        f"{what}. pass@{k} against T_eff = T_train * T_eval, a dot a cell of the sweep, by "
        f"training truncation; lines: quadratic fits; dashed: the base at its best. {told}. "
        f"{_problems(points)}"
    )


def _heat_map(sweep: pd.DataFrame, k: int) -> Drawing:
    setting, grid = next(iter(sweeps.grids(sweep, "all", k).items()))
    return figure_of(temperature_figures.fig_3b(grid)), (
        f"Figure 3b. pass@{k} (%) over T_train and T_eval, trained with {setting}; framed: the "
        f"best; hatched: not run. {_problems(sweep)}"
    )


def _heat_maps(sweep: pd.DataFrame, k: int, what: str) -> Drawing:
    grids = sweeps.grids(sweep, "all", k)
    return temperature_figures.fig_3b_panels(grids), (
        f"{what}. pass@{k} (%) over T_train and T_eval, a panel a training truncation, one scale; "
        f"framed: the best of each; hatched: not run. {_problems(sweep)}"
    )


def _stress(sweep: pd.DataFrame, sample: str | None) -> Drawing:
    frame = sweeps.stress_curves(sweep)
    if sample is None:
        figure, left = figure_of(temperature_figures.fig_7(frame)), ""
    else:
        figure = temperature_figures.fig_7_panels(frame, sample)
        left = "Left: the start of a training sample. "
    return figure, (
        f"Figure 7. {left}The stress test: pass@k against T_eval of the base and of a model "
        f"trained on samples without truncation. {_settings(frame)} {_problems(frame)}"
    )


def _settings(frame: pd.DataFrame) -> str:
    """Checkpoint and settings of each model; for a curve those of its best point."""
    tops = [part.loc[part["estimate"].idxmax()] for _, part in frame.groupby("model")]
    return "; ".join(f"{top['checkpoint']} {top['setting']}" for top in tops) + "."


def _problems(frame: pd.DataFrame) -> str:
    """How many problems "all" holds, or the most of any group."""
    most = frame["problems"].max()
    return "" if pd.isna(most) else f"{int(most)} problems."


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


def _second(ks: list[int]) -> int:
    if len(ks) < 2:
        raise UserError(f"the sweep holds pass@{ks[0]} alone: a second k is needed")
    return ks[-1]

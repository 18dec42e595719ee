"""Beside each other: the arms at one T_eval, what was predicted and what came, the probed arms."""

from typing import Any

import pandas as pd

from ssd_probe.analysis.compare import ALL
from ssd_probe.analysis.passk import paired_difference
from ssd_probe.analysis.sweeps.printed import with_interval
from ssd_probe.commands.loop.declaration import BASE
from ssd_probe.commands.run_folder import RunFolder, as_written, compared_at
from ssd_probe.commands.sweep import verdicts
from ssd_probe.files.record import read_object
from ssd_probe.views.comparison import FRONT
from ssd_probe.views.report.content import Block, Notes, Prose, Table
from ssd_probe.views.story import by_cell, judged, with_ends


def at_equal_temperatures(summary: dict[str, Any], run: RunFolder) -> list[Block]:
    """On dev: the base's pass@1 at each T_eval, and each arm's difference there."""
    cells = [cell for cell in run.dev_cells() if cell.evaluation.is_file()]
    tested = {(cell.trained.name, cell.decoding.temperature): verdicts(cell) for cell in cells}
    rows, problems = [], 0
    for t in sorted({t for name, t in tested if name == BASE}):
        row: dict[str, Any] = {"T_eval": f"{t:g}"}
        for name in (name for name, at in tested if at == t and name != BASE):
            found = paired_difference(tested[BASE, t], tested[name, t], (1,), by=None).iloc[0]
            problems = int(found["problems"])
            row.setdefault(BASE, f"{found['base']:.3f}")
            row[f"{name} - {BASE}"] = with_ends(dict(found), sign=True)
        rows.append(row)
    if not problems:
        return []
    own = set(summary["best_temperature"].values())
    on_test = (
        f"the test problems were answered at T_eval {own.pop():g} by all"
        if len(own) == 1
        else "the test problems were answered at each model's own T_eval only"
    )
    return [
        Prose(
            f"Each arm beside the base at the same T_eval, on the {problems} dev problems. T_eval "
            f"was chosen on these, so that the highest numbers are too high; {on_test}."
        ),
        Table("pass@1 on dev, differences paired by problem", pd.DataFrame(rows).fillna("")),
    ]


def predicted_and_came(summary: dict[str, Any], run: RunFolder) -> list[Block]:
    """A row a model of prediction.json: its T_eval and branching, then its T_eval and pass@1."""
    file, loop = run.out / "prediction.json", run.loop
    if not file.is_file():
        return []
    cut = (loop.top_k_eval, loop.top_p_eval)
    with as_written(file):
        said = {
            (row["T_train"], row["top_k_train"], row["top_p_train"]): row
            for row in read_object(file)["intervals"]
            if (row["top_k_eval"], row["top_p_eval"]) == cut
        }
    passes, gains = by_cell(summary["pass_at_k"]), by_cell(summary["differences"])
    best, lines, inside, told = summary["best_temperature"], [], 0, 0
    settings = {BASE: (None, None, None)} | {
        arm.name: (arm.decoding.temperature, arm.decoding.top_k, arm.decoding.top_p)
        for arm in loop.candidates if arm.decoding
    }  # fmt: skip
    order = [name for name in settings if settings[name] in said and name in best]
    for name in order:
        row, gain = said[settings[name]], gains.get((name, ALL, 1))
        inside += _serves(row, best[name])
        told += gain is not None and judged(gain).startswith("it ")
        lines.append({
            "model": name, "predicted: T_eval for both": _interval(row),
            "forks branch": f"{row['reach']:.2f}" if row["reach"] is not None else "n/a",
            "came: T_eval best on dev": f"{best[name]:g}",
            "pass@1 on test": with_ends(passes[name, ALL, 1]),
            "less the base": with_ends(gain, sign=True) if gain else "",
        })  # fmt: skip
    if len(lines) < 2:
        return []
    reach = sorted(order, key=lambda name: -(said[settings[name]]["reach"] or 0))
    came = sorted(order, key=lambda name: -passes[name, ALL, 1]["estimate"])
    return [
        Table("The prediction, and what came", pd.DataFrame(lines)),
        Notes([
            _order(reach, came, told),
            "The T_eval that was best on dev lies where the prediction says that locks and forks "
            f"are served for {inside} of {len(order)} models.",
            *summary.get("prediction_check", []),
        ]),
    ]  # fmt: skip


def _order(reach: list[str], came: list[str], told: int) -> str:
    """The predicted order beside the one that came, or that nothing tests it.

    told: how many students' differences to the base are told from none.
    """
    said = f"Most branching first, the prediction's order is {', '.join(reach)}"
    if not told:
        return (
            f"{said}. No student's pass@1 on test is told from the base's, so that no order can "
            "be tested here."
        )
    of = len(came) - 1
    return (
        f"{said}; by pass@1 on test it is {', '.join(came)}. {told} of the {of} students "
        f"{'is' if told == 1 else 'are'} told from the base."
    )


def _serves(row: dict[str, Any], t: float) -> bool:
    return bool(row["feasible"]) and row["T_low"] <= t <= row["T_high"]


def _interval(row: dict[str, Any]) -> str:
    if row["T_high"] is None:
        return "none: locks are never precise"
    if not row["feasible"]:
        return f"none: locks up to {row['T_high']:.2f}"
    return f"{row['T_low']:.2f} to {row['T_high']:.2f}"


def probed_arms(summary: dict[str, Any], run: RunFolder) -> list[Block]:
    """What changed in each probed student on the first text, where there are several."""
    tables = _tables(summary, run)
    if len(tables) < 2:
        return []
    columns = [_differences(table).rename(
        f"{name} - {BASE}, support at {compared_at(run, name, summary['main'])}"
    ) for name, table in tables.items()]  # fmt: skip
    wide = pd.concat(columns, axis=1).reset_index().fillna("")
    return [Table("The probed students beside each other", wide, folded=True)]


def unprobed(summary: dict[str, Any], run: RunFolder) -> str:
    """Of which arms nothing is known inside, as a sentence; nothing where all were probed."""
    known = _tables(summary, run)
    names = [arm.name for arm in run.loop.arms if arm.name not in known]
    if not names:
        return ""
    return f" Of {', '.join(names)} nothing is said here: not probed, as declared."


def _tables(summary: dict[str, Any], run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """The comparison of each probed student on the first text, the main arm's first."""
    return {summary["main"]: summary["comparison"]} | {
        each["model"]: each["table"]
        for each in summary.get("comparisons", [])
        if each["text"] == run.loop.texts[0]
    }


def _differences(table: list[dict[str, Any]]) -> pd.Series:
    """Of the statistics that are told first, by label and statistic, with their intervals."""
    shown = pd.DataFrame(table)
    shown = shown[shown["statistic"].isin(FRONT) & (shown["label"] != ALL)]
    numbers = (shown[name].astype(float) for name in ("difference", "low", "high"))
    names = [shown["label"], shown["statistic"].str.replace("_", " ")]
    told = [
        with_interval(difference, low, high, sign=True)
        for difference, low, high in zip(*numbers, strict=True)
    ]
    return pd.Series(told, index=names)

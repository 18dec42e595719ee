"""A prediction as a person reads it: tables, and one sentence for each interval."""

import numpy as np
import pandas as pd

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.check import Check
from ssd_probe.analysis.prediction.feasible import RESOLUTION
from ssd_probe.analysis.prediction.predict import ALL, EVAL, TRAIN, Prediction
from ssd_probe.decoding import Decoding

BOUND = (
    "Ideal-fit bound: what a student that fits its target exactly would draw. It says nothing of "
    "which tokens are right, and is no forecast of pass@k."
)


def describe(found: Prediction) -> str:
    """All of a prediction but its gains by T_eval, which only the frames hold."""
    count = found.positions
    lines = [
        BOUND,
        f"{sum(count.values())} positions: {count[LOCK]} locks, {count[FORK]} forks"
        + (f"; {found.left_out} left out, not known from the kept ranks" if found.left_out else ""),
        "",
        "Training supports: means; gains in log p(top token) at T=1 (Prop. B.3)",
        _supports(found.supports),
    ]
    cuts = list(found.cells[EVAL[1:]].drop_duplicates().itertuples(index=False, name=None))
    for top_k, top_p in cuts:
        cut = str(Decoding(1.0, top_k, top_p)).removeprefix("T=1").removeprefix(", ") or "nothing"
        here = (found.intervals["top_k_eval"] == top_k) & (found.intervals["top_p_eval"] == top_p)
        cells = found.cells[
            (found.cells["top_k_eval"] == top_k) & (found.cells["top_p_eval"] == top_p)
        ]
        lines += ["", f"Evaluated with {cut}: mean mass of the top token at locks, by T_eval"]
        lines += [_by_temperature(cells, LOCK, "top1"), "", "mean branching at forks, by T_eval"]
        lines += [_by_temperature(cells, FORK, "branching"), ""]
        lines += [f"Order by reach, the forks' branching at T_high ({found.limits}):"]
        ranked = found.intervals[here].to_dict("records")
        lines += [f"{i}. {sentence(row, found.span)}" for i, row in enumerate(ranked, 1)]
    return "\n".join(lines)


def sentence(row: dict, span: tuple[float, float]) -> str:
    """One interval in words."""
    who = model_name(row)
    if np.isnan(row["T_high"]):
        return f"{who}: no T_eval from {span[0]:g} on keeps the locks precise."
    top = f"{row['T_high']:.3g}" + (" (the end of the range)" if row["T_high"] >= span[1] else "")
    if not row["feasible"]:
        room = f"no T_eval serves both; locks are precise up to {top}"
    else:
        bottom = f"{row['T_low']:.3g}" if row["T_low"] > span[0] + RESOLUTION else f"{span[0]:g}"
        room = f"T_eval from {bottom} to {top} serves both"
    window = (
        "no top-p serves both there (eq. 40)"
        if np.isnan(row["top_p_low"])
        else f"top-p in ({row['top_p_low']:.3f}, {row['top_p_high']:.3f}] serves both there"
    )
    return f"{who}: {room}; forks branch {row['reach']:.3f} at its end; {window}."


def model_name(row: dict) -> str:
    """The base, or a student by its training setting."""
    values = [row[name] for name in TRAIN]
    if np.isnan(values[0]):
        return "base"
    return f"student of {Decoding(values[0], int(values[1]), values[2])}"


def describe_check(check: Check, found: Prediction) -> str:
    """The trained student's own intervals, and the prediction's error curve by curve."""
    errors = check.errors
    shown = errors[errors["label"].isin([LOCK, FORK])]
    lines = ["The trained student, measured:"]
    lines += [f"  {sentence(row, found.span)}" for row in check.measured.to_dict("records")]
    lines += ["Prediction against it, over T_eval:"]
    for row in shown.to_dict("records"):
        none = "nothing changed" if np.isnan(row["relative"]) else f"{row['relative']:.2f} of it"
        lines.append(
            f"  {row['label']}s, {row['curve']} at top-k {row['top_k_eval']:g}, top-p "
            f"{row['top_p_eval']:g}: mean error {row['mean_error']:.3g} {row['unit']} (largest "
            f"{row['largest_error']:.3g}); training changed it by {row['change']:.3g}: {none}; "
            f"no farther than the base at {row['nearer']} of {row['of']} T_eval"
        )
    return "\n".join(lines)


def _supports(supports: pd.DataFrame) -> str:
    names = {
        "support_size": "tokens", "kept_mass": "kept mass", "target_entropy": "H(q)",
        "gain_support": "support", "gain_reshaping": "reshaping",
    }  # fmt: skip
    shown = supports[supports["label"] != ALL]
    index = shown.apply(model_name, axis=1).str.removeprefix("student of ")
    table = shown[[*names]].rename(columns=names).assign(setting=index, label=shown["label"])
    return _text(table.set_index(["setting", "label"]), 4)


def _by_temperature(cells: pd.DataFrame, label: str, column: str) -> str:
    shown = cells[cells["label"] == label]
    name = shown.apply(model_name, axis=1).rename("T_eval")
    order = list(dict.fromkeys(name))
    table = shown.assign(model=name).pivot(index="model", columns="T_eval", values=column)
    table.columns = [f"{t:g}" for t in table.columns]
    return _text(table.loc[order].rename_axis(None), 3)


def _text(table: pd.DataFrame, digits: int) -> str:
    return table.to_string(float_format=lambda x: f"{x:.{digits}f}", na_rep="-")

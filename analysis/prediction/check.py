"""Prediction against a student that was really trained, curve by curve, with its error."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.feasible import Limits, interval
from ssd_probe.analysis.prediction.ideal import Ranks, ideal_student
from ssd_probe.analysis.prediction.positions import Sample
from ssd_probe.analysis.prediction.predict import (
    BASE,
    EVAL,
    IDEAL,
    Prediction,
    by_label,
    cells_of,
    exactly_known,
    setting_of,
    span_of,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

MEASURED = "ssd"
CURVES = {"entropy": "nats", "branching": "tokens", "survivors": "tokens", "top1": "mass"}
_TRUNCATION = [name for name in EVAL if name != "T_eval"]


class Check(NamedTuple):
    """A prediction beside a student that was really trained."""

    curves: pd.DataFrame  # `predicted_and_measured`
    errors: pd.DataFrame  # `curve_errors`
    measured: pd.DataFrame  # `measured_intervals`


def check_prediction(found: Prediction, base: Sample, student: Sample) -> Check:
    """How far `found`, predicted from `base`, is from the student trained at its one setting.

    student: the same positions (`same_positions`). Raises UserError for a prediction of several
    students, and as `predict`, for either probe.
    """
    if len(found.trains) != 1:
        raise UserError("a trained student is compared with the one setting that it was trained at")
    (train,) = found.trains
    curves = predicted_and_measured(base, student, train, found.evals, found.limits)
    measured = measured_intervals(student, train, found.evals, found.limits)
    return Check(curves, curve_errors(curves), measured)


def predicted_and_measured(
    base: Sample, student: Sample, train: Decoding, evals: Sequence[Decoding], limits: Limits
) -> pd.DataFrame:
    """`cells_of` for the base, the ideal fit at `train`, and the trained student: column model.

    student: the same positions (`same_positions`), with the base's labels. Positions at which
    either model's draw is not within its K ranks are left out of all three.
    Raises UserError as `predict`, for either probe.
    """
    known = (exactly_known(s.stats, [train], evals) for s in (base, student))
    both = np.logical_and(*(mask.numpy() for mask in known))
    before, after = (
        {label: Ranks(part.top_logits) for label, part in by_label(s, both).items()}
        for s in (base, student)
    )
    ideal = {label: ideal_student(ranks, train) for label, ranks in before.items()}
    models = {BASE: before, IDEAL: ideal, MEASURED: after}
    tables = [cells_of(model, evals, limits).assign(model=name) for name, model in models.items()]
    return pd.concat(tables, ignore_index=True)


def measured_intervals(
    student: Sample, train: Decoding, evals: Sequence[Decoding], limits: Limits
) -> pd.DataFrame:
    """The intervals that the trained student really has, as `predict` gives those of the ideal fit.

    Over the base's locks and forks. Raises UserError as `predict`, for the student's probe.
    """
    parts = by_label(student, exactly_known(student.stats, [train], evals).numpy())
    locks, forks = Ranks(parts[LOCK].top_logits), Ranks(parts[FORK].top_logits)
    span = span_of(evals)
    named = setting_of(train) | {"model": MEASURED}
    rows = [
        {**named, "top_k_eval": cut.top_k, "top_p_eval": cut.top_p,
         **interval(locks, forks, cut, span, limits)._asdict()}
        for cut in dict.fromkeys(replace(e, temperature=1.0) for e in evals)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curve_errors(curves: pd.DataFrame) -> pd.DataFrame:
    """How far the ideal fit is from the trained student over T_eval, for each label and curve.

    Returns label, curve, unit, truncation, mean_error and largest_error (absolute, over the T_eval
    of the curve), change (mean |trained - base|: what there was to predict), relative (mean_error /
    change: 0 is perfect, 1 no better than predicting that nothing changes), bias (mean of
    predicted - trained), nearer and of: at how many of the T_eval the ideal fit is no farther from
    the trained student than the base is.
    """
    rows = []
    for keys, part in curves.groupby(["label", *_TRUNCATION], sort=False):
        wide = part.pivot(index="T_eval", columns="model", values=list(CURVES))
        for curve, unit in CURVES.items():
            error = wide[curve, IDEAL] - wide[curve, MEASURED]
            changes = (wide[curve, MEASURED] - wide[curve, BASE]).abs()
            change, near = changes.mean(), error.abs() <= changes + 1e-9
            rows.append(
                {
                    **dict(zip(["label", *_TRUNCATION], keys, strict=True)),
                    "curve": curve,
                    "unit": unit,
                    "mean_error": error.abs().mean(),
                    "largest_error": error.abs().max(),
                    "change": change,
                    "relative": error.abs().mean() / change if change else np.nan,
                    "bias": error.mean(),
                    "nearer": int(near.sum()),
                    "of": len(near),
                }
            )
    return pd.DataFrame(rows)

"""`ssd-probe predict`: the base's probe in, what self-distillation could do with it out."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.prediction.check import (
    curve_errors,
    measured_intervals,
    predicted_and_measured,
)
from ssd_probe.analysis.prediction.feasible import Limits
from ssd_probe.analysis.prediction.positions import Sample, draw_positions, same_positions
from ssd_probe.analysis.prediction.predict import Prediction, predict, temperature_map
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.probing.table import Probe
from ssd_probe.views.prediction import describe, describe_errors, rules


class Question(NamedTuple):
    """What is asked of a base's probe: students trained at `trains`, each decoded at `evals`."""

    trains: list[Decoding]
    evals: list[Decoding]
    limits: Limits
    rule: SupportRule
    positions: int = 200_000  # drawn at random; 0: all
    seed: int = 0


class Answer(NamedTuple):
    """The prediction; and with a trained student's probe how far it is off, by name."""

    asked: Question
    sample: Sample
    prediction: Prediction
    checked: dict[str, pd.DataFrame]  # curves, errors, measured

    def lines(self) -> list[str]:
        """As a person reads it."""
        drawn, of = len(self.sample.rows), self.sample.of
        part = (
            f"{drawn} of {of} positions, drawn at random" if drawn < of else f"all {of} positions"
        )
        evals, limits = self.asked.evals, self.asked.limits
        lines = [f"{part}; locks and forks by branching at {self.asked.rule.decoding}"]
        lines.append(describe(self.prediction, evals, limits))
        if self.checked:
            span = min(e.temperature for e in evals), max(e.temperature for e in evals)
            errors, measured = self.checked["errors"], self.checked["measured"]
            lines += ["", describe_errors(errors, measured, span)]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For JSON, stable keys; what is not known, or where there is no interval, is None."""
        tables = {n: getattr(self.prediction, n) for n in ("supports", "cells", "intervals")}
        return {
            "bound": "ideal fit",
            "drawn": len(self.sample.rows),
            "of": self.sample.of,
            "seed": self.asked.seed,
            "positions": self.prediction.positions,
            "left_out": self.prediction.left_out,
            "rule": self.asked.rule.decoding.to_dict(),
            "limits": asdict(self.asked.limits),
            "train": [train.to_dict() for train in self.asked.trains],
            "eval": [evaluation.to_dict() for evaluation in self.asked.evals],
            **{
                name: table.astype(object).where(table.notna(), None).to_dict("records")
                for name, table in (tables | self.checked).items()
            },
        }


def predict_stage(probe: Path, student: Path | None, asked: Question) -> Answer:
    """Predict from the base's probe; with `student` (its probe) also state the error."""
    if student is not None and len(asked.trains) > 1:
        raise UserError("--student needs the one setting that it was trained at: one --t-train")
    base = Probe.load(probe)
    sample = draw_positions(base, asked.rule, asked.positions, asked.seed)
    prediction = predict(sample, asked.trains, asked.evals, asked.limits)
    checked = {}
    if student is not None:
        other = same_positions(base, Probe.load(student), sample)
        train = asked.trains[0]
        curves = predicted_and_measured(sample, other, train, asked.evals, asked.limits)
        measured = measured_intervals(other, train, asked.evals, asked.limits)
        checked = {"curves": curves, "errors": curve_errors(curves), "measured": measured}
    return Answer(asked, sample, prediction, checked)


def draw_stage(answer: Answer, out: Path) -> list[Path]:
    """The maps over T_train and T_eval, and the check against a student, as files."""
    from ssd_probe.figures.prediction import draw_prediction

    limits, count = answer.asked.limits, answer.prediction.positions
    table = temperature_map(answer.prediction.cells, limits)
    decoding = answer.asked.rule.decoding
    where = f"{count['lock']} locks and {count['fork']} forks by branching at {decoding}"
    return draw_prediction(table, out, rules(limits), where, answer.checked.get("curves"))

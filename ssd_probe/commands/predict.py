"""`ssd-probe predict`: the base's probe in, what self-distillation could do with it out."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.prediction.check import Check, check_prediction
from ssd_probe.analysis.prediction.feasible import Limits
from ssd_probe.analysis.prediction.positions import Sample, draw_positions, same_positions
from ssd_probe.analysis.prediction.predict import Prediction, predict
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.probing.table import Probe
from ssd_probe.views.prediction import told
from ssd_probe.views.terminal import Told


class Question(NamedTuple):
    """What is asked of a base's probe: students trained at `trains`, each decoded at `evals`."""

    trains: list[Decoding]
    evals: list[Decoding]
    limits: Limits
    rule: SupportRule
    positions: int = 200_000  # drawn at random; 0: all
    seed: int = 0


class Answer(NamedTuple):
    """The prediction; and with a trained student's probe how far it is off."""

    sample: Sample
    prediction: Prediction
    check: Check | None

    def told(self, full: bool = False) -> Told:
        """As a person reads it."""
        drawn, of = len(self.sample.rows), self.sample.of
        which = (
            f"{drawn:,} of {of:,} positions, drawn at random" if drawn < of
            else f"all {of:,} positions"
        )  # fmt: skip
        return told(self.prediction, which, self.check, full)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys; NaN (in JSON null) is what is not known, or where there is no interval."""
        found = self.prediction
        tables = {n: getattr(found, n) for n in ("supports", "cells", "intervals")}
        if self.check is not None:
            tables |= self.check._asdict()
        return {
            "bound": "ideal fit",
            "drawn": len(self.sample.rows),
            "of": self.sample.of,
            "seed": self.sample.seed,
            "positions": found.positions,
            "left_out": found.left_out,
            "rule": found.rule.decoding.to_dict(),
            "limits": asdict(found.limits),
            "train": [train.to_dict() for train in found.trains],
            "eval": [evaluation.to_dict() for evaluation in found.evals],
            **{name: table.to_dict("records") for name, table in tables.items()},
        }


def predict_stage(probe: Path, student: Path | None, asked: Question) -> Answer:
    """Predict from the base's probe; with `student` (its probe) also state the error."""
    if student is not None and len(asked.trains) > 1:
        raise UserError("--student needs the one setting that it was trained at: one --t-train")
    base = Probe.load(probe)
    sample = draw_positions(base, asked.rule, asked.positions, asked.seed)
    prediction = predict(sample, asked.trains, asked.evals, asked.limits)
    check = None
    if student is not None:
        other = same_positions(base, Probe.load(student), sample)
        check = check_prediction(prediction, sample, other)
    return Answer(sample, prediction, check)


def draw_stage(answer: Answer, out: Path) -> list[str]:
    """The maps over T_train and T_eval, and the check against a student, as files."""
    from ssd_probe.analysis.prediction.plot_data import prediction_pictures
    from ssd_probe.figures.prediction import draw_prediction

    return draw_prediction(prediction_pictures(answer.prediction, answer.check), out).lines()

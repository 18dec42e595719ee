"""`ssd-probe predict`: the base's probe in, what self-distillation could do with it out."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.prediction.check import Check, check_prediction
from ssd_probe.analysis.prediction.feasible import Limits
from ssd_probe.analysis.prediction.plot_data import RivalCurves, prediction_pictures
from ssd_probe.analysis.prediction.positions import Sample, draw_positions, same_positions
from ssd_probe.analysis.prediction.predict import (
    BASE,
    Prediction,
    by_label,
    exactly_known,
    predict,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.policies.effects import At, Effects, compare_policies, untold
from ssd_probe.policies.parsing import USUAL, own_decoding, policy_of
from ssd_probe.probing.table import Probe
from ssd_probe.views.prediction import STUDENT, told, told_rivals
from ssd_probe.views.terminal import Told


class Question(NamedTuple):
    """What is asked of a base's probe: students trained at `trains`, each decoded at `evals`."""

    trains: list[Decoding]
    evals: list[Decoding]
    limits: Limits
    rule: SupportRule
    positions: int = 200_000  # drawn at random; 0: all
    seed: int = 0
    policies: tuple[str, ...] = ()  # decode-only rivals, as `policy_of` reads them
    usual: bool = False  # and those of `USUAL` that the ranks tell


class Beside(NamedTuple):
    """Base, ideal students and decode-only rivals side by side; which are left out, and why."""

    effects: Effects
    untold: dict[str, str]


class Answer(NamedTuple):
    """The prediction; with a student's probe how far it is off; and the rivals asked for."""

    sample: Sample
    prediction: Prediction
    check: Check | None
    rivals: Beside | None = None

    def told(self, full: bool = False) -> Told:
        """As a person reads it."""
        drawn, of = len(self.sample.rows), self.sample.of
        which = (
            f"{drawn:,} of {of:,} positions, drawn at random" if drawn < of
            else f"all {of:,} positions"
        )  # fmt: skip
        said = told(self.prediction, which, self.check, full)
        if self.rivals is None:
            return said
        sentences, tables = told_rivals(*self.rivals, full)
        return said._replace(
            sentences=[*said.sentences, *sentences], tables=[*said.tables, *tables]
        )

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
            **({} if self.rivals is None else {"rivals": _rivals_dict(*self.rivals)}),
        }


def _rivals_dict(effects: Effects, untold: dict[str, str]) -> dict[str, Any]:
    return {
        "slip": effects.slip,
        "inside": effects.inside.to_dict(),
        "ranks": effects.ranks,
        "cells": effects.cells.to_dict("records"),
        "level": effects.level.to_dict("records"),
        "untold": untold,
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
    rivals = _beside(sample, asked) if asked.policies or asked.usual else None
    return Answer(sample, prediction, check, rivals)


def _beside(sample: Sample, asked: Question) -> Beside:
    """At the positions of the prediction, so that its students are the same here."""
    cuts = list(dict.fromkeys(replace(e, temperature=1.0) for e in asked.evals))
    if len(cuts) > 1:
        raise UserError("rivals are set beside one truncation: one --eval-top-k, one --eval-top-p")
    known = exactly_known(sample.stats, asked.trains, asked.evals).numpy()
    stats = by_label(sample, known)
    policies: dict[str, At] = {BASE: partial(_tempered, None, cuts[0])}
    for train in asked.trains:
        text = f"two-stage(T_train={train.temperature}, top_k={train.top_k}, top_p={train.top_p})"
        policies[f"{STUDENT}{train}"] = partial(_tempered, text, cuts[0])
    for text in asked.policies:
        at = partial(_tempered, text, cuts[0])
        policies[at(1.0).text] = at
    reasons: dict[str, str] = {}
    for text in USUAL if asked.usual else ():
        at = partial(_tempered, text, cuts[0])
        name = at(1.0).text
        if why := untold(at(1.0), stats.values()):
            reasons[name] = why
        else:
            policies.setdefault(name, at)
    temperatures = sorted({e.temperature for e in asked.evals})
    return Beside(
        compare_policies(stats, policies, policies[BASE], temperatures, asked.rule.decoding),
        reasons,
    )


def _tempered(text: str | None, cut: Decoding, temperature: float) -> Any:
    """A policy, None: the plain decoding, where models are evaluated with this truncation."""
    evaluation = replace(cut, temperature=temperature)
    return evaluation if text is None else policy_of(text, own_decoding(text, evaluation))


def draw_stage(answer: Answer, out: Path) -> list[str]:
    """The maps over T_train and T_eval, and the check against a student, as files."""
    from ssd_probe.figures.prediction import draw_prediction

    rivals = None if answer.rivals is None else _curves(answer)
    return draw_prediction(
        prediction_pictures(answer.prediction, answer.check, rivals), out
    ).lines()


def _curves(answer: Answer) -> RivalCurves:
    """With one student, that of most fork entropy, and the rivals by their names."""
    assert answer.rivals is not None
    found = answer.rivals.effects
    order = list(found.level["policy"])
    students = [name for name in order if name.startswith(STUDENT)]
    left_out = set(students[1:])
    curves = found.curves()
    curves = curves[~curves["policy"].isin(left_out)].rename(columns={"policy": "model"})
    cut = replace(answer.prediction.evals[0], temperature=1.0)
    return RivalCurves(curves, found.slip, found.inside, cut)

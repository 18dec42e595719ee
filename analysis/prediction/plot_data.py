"""A prediction in plot form: a map a pair of truncations, and its check against a student."""

from typing import NamedTuple

import pandas as pd

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.check import Check
from ssd_probe.analysis.prediction.feasible import Limits
from ssd_probe.analysis.prediction.predict import EVAL, TRAIN, Prediction, temperature_map
from ssd_probe.decoding import Decoding

Cut = tuple[int, float]  # top-k and top-p


class RivalCurves(NamedTuple):
    """Base, an ideal student and decode-only rivals, over T."""

    curves: pd.DataFrame  # model, temperature, slip at locks, head_entropy and tail at forks
    slip: float  # of the base at T=1, or 0.001
    inside: Decoding  # whose support the head is
    cut: Decoding  # what base and student are evaluated with


class PredictionPictures(NamedTuple):
    """What the maps and the check show, and what their captions name."""

    maps: dict[tuple[Cut, Cut], pd.DataFrame]  # by training and evaluation truncation, base first
    checks: dict[Cut, pd.DataFrame]  # by evaluation truncation: `predicted_and_measured`
    limits: Limits
    locks: int
    forks: int
    rule: Decoding  # by whose branching locks and forks are told
    rivals: RivalCurves | None = None


def prediction_pictures(
    found: Prediction, check: Check | None = None, rivals: RivalCurves | None = None
) -> PredictionPictures:
    """A prediction, its check and its rivals if there are any -> all that their figures show."""
    table = temperature_map(found)
    students = table.dropna(subset=["T_train"])
    maps, checks = {}, {}
    for (k, p, k_eval, p_eval), part in students.groupby([*TRAIN[1:], *EVAL[1:]], sort=False):
        cut = (table["top_k_eval"] == k_eval) & (table["top_p_eval"] == p_eval)
        base = table[cut & table["T_train"].isna()]
        maps[(int(k), p), (int(k_eval), p_eval)] = pd.concat([base, part])
    if check is not None:
        for (k_eval, p_eval), part in check.curves.groupby(EVAL[1:], sort=False):
            checks[int(k_eval), p_eval] = part
    count = found.positions
    return PredictionPictures(
        maps, checks, found.limits, count[LOCK], count[FORK], found.rule.decoding, rivals
    )

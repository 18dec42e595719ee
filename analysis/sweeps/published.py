"""What the paper printed (Tables 2-4 and section 1's numbers), from `published.json`."""

import json
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd


class Published(NamedTuple):
    """The paper's values; every pass@k and every margin is a fraction, as in our own tables.

    table_2: family, model ("base", "ssd"), group, k, estimate.
    settings: family, stage ("train", "eval", "baseline"), temperature, top_k (0 = none), top_p.
    margins: family -> pass@1 of SSD less that of the base at its own best T_eval.
    decode_only: least and most that tuning the base's decoding alone moves pass@1.
    effective_temperature: r2 and peak of the fit without truncation.
    stress_test: T_train, top_k, top_p, without_code (share of samples), pass_at_k by k.
    """

    table_2: pd.DataFrame
    settings: pd.DataFrame
    margins: dict[str, float]
    decode_only: tuple[float, float]
    effective_temperature: dict[str, Any]
    stress_test: dict[str, Any]
    source: str
    benchmark: str


def published() -> Published:
    """The published values, read anew: the frames are the caller's to edit.

    Source: Table 2 (LiveCodeBench v6), Table 3, Table 4, section 1.
    """
    raw = json.loads(
        files("ssd_probe.analysis.sweeps").joinpath("published.json").read_text(encoding="utf-8")
    )
    groups = raw["table_2"]["groups"]
    scores = [
        (family, model, group, k, _fraction(percent))
        for family, k, *sides in raw["table_2"]["rows"]
        for model, percents in zip(("base", "ssd"), sides, strict=True)
        for group, percent in zip(groups, percents, strict=True)
    ]
    settings = [
        (family, stage, *values)
        for family, stages in raw["settings"]["rows"].items()
        for stage, values in stages.items()
    ]
    stress = raw["stress_test"]
    passes = {int(k): _fraction(percent) for k, percent in stress["pass_at_k"].items()}
    low, high = raw["decode_only"]["range"]
    return Published(
        pd.DataFrame(scores, columns=["family", "model", "group", "k", "estimate"]),
        pd.DataFrame(settings, columns=["family", "stage", *raw["settings"]["columns"]]),
        {name: _fraction(x) for name, x in raw["margin_over_best_base"]["rows"].items()},
        (_fraction(low), _fraction(high)),
        raw["effective_temperature"],
        stress | {"pass_at_k": passes},
        raw["source"],
        raw["benchmark"],
    )


def _fraction(percent: float) -> float:
    """Printed percent as a fraction with no more digits than were printed."""
    return round(percent / 100, 6)

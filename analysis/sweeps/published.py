"""What the paper printed (Tables 2-4, section 1's numbers), and a sweep of one's own beside it."""

import json
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd

from ssd_probe.analysis.sweeps import summaries
from ssd_probe.analysis.sweeps.table import check_sweep


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


class PublishedPictures(NamedTuple):
    """The paper's Figure 1, Figure 2 as bars, and Table 2, and one's own sweep beside it."""

    scores: pd.DataFrame  # as `Published.table_2`; one's own come last
    levels: pd.DataFrame  # name, base, best (its best decoding), ssd, margin: pass@1 of all
    own: int  # how many names are one's own: 0 or 1
    source: str
    benchmark: str


def published_pictures(sweep: pd.DataFrame | None = None) -> PublishedPictures:
    """The published values in plot form.

    sweep: a sweep table whose base and best student stand beside the paper's models.
    Raises UserError when it is no sweep table, or has no base, student or pass@1 of "all".
    """
    known = published()
    scores, levels = [known.table_2], [_decode_only(known)]
    if sweep is not None:
        table = check_sweep(sweep)
        table = table[table["policy"] == ""]  # the paper's bars are of base and SSD
        scores.append(_own_scores(table))
        levels.append(_own_level(table))
    return PublishedPictures(
        pd.concat(scores, ignore_index=True),
        pd.concat(levels, ignore_index=True),
        len(levels) - 1,
        known.source,
        known.benchmark,
    )


def _own_scores(sweep: pd.DataFrame) -> pd.DataFrame:
    """A sweep's base and best student as rows of `table_2`; k's best each on "all"."""
    ks = sorted(set(sweep["k"]) & {1, 5} | {1})
    scores = pd.concat([summaries.by_difficulty(sweep, k) for k in ks], ignore_index=True)
    columns = ["family", "model", "group", "k", "estimate", "low", "high"]
    return scores.assign(family=_own_name(sweep))[columns]


def _own_level(sweep: pd.DataFrame) -> pd.DataFrame:
    """A sweep's base and best student as a row of `levels`.

    A sweep does not say which of the base's settings is its default: `base` is NaN.
    """
    _, margin = summaries.against_base(sweep, "all", 1)
    level = {"name": _own_name(sweep), "base": float("nan"), "best": margin.base}
    return pd.DataFrame([level | {"ssd": margin.student, "margin": margin.gain}])


def _own_name(sweep: pd.DataFrame) -> str:
    trained = summaries.students_of(summaries.select(sweep, "all", 1))
    return f"yours: {summaries.best(trained)['model']}"


def _decode_only(known: Published) -> pd.DataFrame:
    """Base, its best decoding (SSD less the printed margin) and SSD: pass@1 of all, by family."""
    table = known.table_2[(known.table_2["k"] == 1) & (known.table_2["group"] == "all")]
    wide = table.pivot(index="family", columns="model", values="estimate").loc[list(known.margins)]
    gains = pd.Series(known.margins)
    wide = wide.assign(best=wide["ssd"] - gains, margin=gains, name=wide.index)
    return wide[["name", "base", "best", "ssd", "margin"]].reset_index(drop=True)


def _fraction(percent: float) -> float:
    """Printed percent as a fraction with no more digits than were printed."""
    return round(percent / 100, 6)

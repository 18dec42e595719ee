"""What tuning did at locks and at forks: a base and a tuned probe of the same positions, compared.

The paper's claim (section 2) is that the tuned model loses the distractor tail at locks and keeps
its head at forks. Both are measured against one set of tokens, the support S that the *base* keeps
under a decoding: the tail is the mass outside S, the head is the distribution inside S.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ssd_probe.analysis.changes import PAIR_STATISTICS, STATISTICS, position_statistics
from ssd_probe.analysis.labels import FORK, KINDS, LOCK
from ssd_probe.analysis.passk import bootstrap_ratio
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats

ALL = "all"
LEAST_POSITIONS = 30  # of a kind, for a verdict on it
MOST_SHARE = 0.95  # of the positions: with more of one kind, the labels tell nothing apart


class Verdict(NamedTuple):
    """One claim of the paper on these probes: `holds` is True, False, or None for undecided.

    `basis`: the numbers it was judged by, by name, and `unfit`, why they cannot decide, or None.
    """

    claim: str
    holds: bool | None
    basis: dict[str, Any]


def compare(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: ArrayLike,
    decoding: Decoding,
    *,
    noise: pd.DataFrame | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each statistic by label, base against tuned, with an interval of the difference.

    base, tuned: probe frames with the same rows; labels: [N], as a rule gives them on the base.
    Returns label ("all" first), statistic, positions, problems, base, tuned, difference, low, high
    (95 % bootstrap over problems, paired: positions of a problem stay together; NaN for a single
    problem), missing. statistic is one of `STATISTICS`, and of a pair also of `PAIR_STATISTICS`, as
    `position_statistics` defines them; missing is the share of positions at which the tuned ranks
    lack a token of S. Positions not valid in both are left out.
    noise: the base model's rows of some of the texts, scored in other batches (`Probe.noise`); with
    it comes `floor`, the mean absolute change that this made, and no smaller difference is real.
    Probes too long for one frame: `totals` of each part, then `summarise`.
    Raises UserError when the rows or the labels do not line up.
    """
    table = totals(base, tuned, labels, decoding)
    floors = None
    if noise is not None:
        again = base["sample_id"].isin(noise["sample_id"].unique()).to_numpy()
        floors = noise_floors(base[again], noise, np.asarray(labels)[again], decoding)
    return summarise(table, floors, n_resamples=n_resamples, seed=seed)


def totals(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    labels: ArrayLike,
    decoding: Decoding,
    stats: tuple[PositionStats, PositionStats] | None = None,
) -> pd.DataFrame:
    """Sums over the positions of each label and problem; those of several parts just add.

    Arguments as of `compare`; stats: those of the two frames, if they are at hand. Index label
    ("all" too), problem_id; columns positions, missing, and each statistic's `base_<name>` and
    `tuned_<name>`. No rows where nothing is valid in both.
    """
    kinds = np.asarray(labels)
    if kinds.shape != (len(base),):
        raise UserError(f"{len(kinds)} labels for {len(base)} positions: one each is needed")
    measured = position_statistics(base, tuned, decoding, stats)
    measured["missing"] = measured["missing"] > 0
    measured.insert(0, "positions", 1)
    measured.insert(0, "label", kinds)
    measured = measured[base["valid"].to_numpy(bool) & tuned["valid"].to_numpy(bool)]
    # A statistic that is nowhere known stays NaN, where a plain sum would be 0.
    by_label = measured.groupby(["label", "problem_id"]).sum(min_count=1)
    overall = by_label.groupby(level="problem_id").sum(min_count=1)
    return pd.concat([pd.concat({ALL: overall}, names=["label"]), by_label])


def add_totals(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The sum of the `totals` of several parts, of which one is held at a time."""
    whole: pd.DataFrame | None = None
    for part in parts:
        whole = part if whole is None else whole.add(part, fill_value=0)
    if whole is None:
        raise UserError("the probe holds no parts")
    return whole


def summarise(
    table: pd.DataFrame,
    floors: Mapping[tuple[str, str], float] | None = None,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The frame of `compare` from `totals`, and from `noise_floors` if there are any.

    Raises UserError where no position is valid in both probes.
    """
    if table.empty:
        raise UserError("no position is valid in both probes")
    names = [
        name
        for name in (*STATISTICS, *PAIR_STATISTICS)
        if f"base_{name}" in table and table[f"base_{name}"].notna().all()  # not so: greedy
    ]
    labels = [ALL, *(label for label in table.index.unique("label").sort_values() if label != ALL)]
    rows = []
    for label in labels:
        sums = table.loc[label]
        count = sums["positions"]
        for name in names:
            base, tuned = sums[f"base_{name}"], sums[f"tuned_{name}"]
            low, high = bootstrap_ratio(tuned - base, count, n_resamples=n_resamples, seed=seed)
            means = [column.sum() / count.sum() for column in (base, tuned, tuned - base)]
            missing = sums["missing"].sum() / count.sum()
            rows.append((label, name, int(count.sum()), len(sums), *means, low, high, missing))
    columns = ["label", "statistic", "positions", "problems", "base", "tuned", "difference"]
    result = pd.DataFrame(rows, columns=[*columns, "low", "high", "missing"])
    if floors is not None:
        keys = zip(result["label"], result["statistic"], strict=True)
        result["floor"] = [floors.get(key) for key in keys]
    return result


def kind_counts(comparison: pd.DataFrame) -> dict[str, int]:
    """Positions of each kind in `compare`'s frame, 0 where there are none; "all" first."""
    counts = comparison.drop_duplicates("label").set_index("label")["positions"]
    return {kind: int(counts.get(kind, 0)) for kind in (ALL, *KINDS)}


def unfit(counts: Mapping[str, int], *kinds: str) -> str | None:
    """Why nothing can be said of these kinds of positions, or None.

    A kind is nearly absent with fewer than `LEAST_POSITIONS`, and nearly everything with more than
    `MOST_SHARE` of all positions: then the rule told nothing apart. counts: of `kind_counts`.
    """
    for kind in kinds:
        if counts[kind] < LEAST_POSITIONS:
            return f"{counts[kind]} {kind}s, and a verdict needs {LEAST_POSITIONS}"
        if counts[kind] > MOST_SHARE * counts[ALL]:
            share = 100 * counts[kind] / counts[ALL]
            return f"{share:.3g} % of the positions are {kind}s, above {100 * MOST_SHARE:g} %"
    return None


def verdicts(comparison: pd.DataFrame, margin: float = 0.05) -> list[Verdict]:
    """The paper's two claims, judged on `compare`'s frame (in words: `views.comparison`).

    Locks lost their tail: the tail mass at locks fell. Forks kept their head: the entropy of the
    head at forks did not fall. "Fell" means that the whole interval of the difference lies below
    -margin times the base's value, "did not" that the whole interval lies above it; an interval
    across it, or none, decides nothing, and nor does a fall below the noise floor, nor a kind that
    is `unfit`.
    """
    return [
        _verdict(comparison, LOCK, "tail_mass", "locks lost their tail", True, margin),
        _verdict(comparison, FORK, "head_entropy", "forks kept their head", False, margin),
    ]


def loss_parts(comparison: pd.DataFrame) -> pd.DataFrame:
    """KL(q || p) in its two parts, before and after: a row a label ("all", then kinds) and model.

    comparison: `compare`'s frame. KL(q || p) = outside + inside, in nats: outside = -log K, what is
    not yet in the support; inside = KL(q || pi), what has another shape within it.
    Returns label, model ("base", "tuned"), outside, inside, positions.
    Raises UserError where the statistics of the loss are missing, as for greedy training.
    """
    if "target_kl" not in set(comparison["statistic"]):
        raise UserError("greedy training has no loss terms")
    wide = comparison.pivot(index="statistic", columns="label")
    rows = []
    for label in (label for label in (ALL, *KINDS) if label in wide["base"]):
        for model in ("base", "tuned"):
            means = wide[model][label]
            outside = means["compression"]
            inside, count = means["target_kl"] - outside, int(wide["positions"][label]["target_kl"])
            rows.append((label, model, outside, inside, count))
    return pd.DataFrame(rows, columns=["label", "model", "outside", "inside", "positions"])


def noise_floors(
    first: pd.DataFrame, noise: pd.DataFrame, kinds: NDArray, decoding: Decoding
) -> dict[tuple[str, str], float]:
    """By label and statistic: mean |change| of a position when the same model is scored again.

    first, noise: the same rows of the base model, scored twice; kinds: their labels, [N].
    """
    first, noise = first.reset_index(drop=True), noise.reset_index(drop=True)
    alone = first.drop(columns="other_at_base_top", errors="ignore")  # of a pair's other model
    measured = position_statistics(alone, noise, decoding)
    valid = first["valid"].to_numpy(bool) & noise["valid"].to_numpy(bool)
    floors = {}
    for name in STATISTICS:
        change = (measured[f"tuned_{name}"] - measured[f"base_{name}"]).abs()[valid]
        floors[ALL, name] = change.mean()
        for label, mean in change.groupby(kinds[valid]).mean().items():
            floors[label, name] = mean
    return floors


def _verdict(
    comparison: pd.DataFrame, label: str, name: str, claim: str, should_fall: bool, margin: float
) -> Verdict:
    found = comparison[(comparison["label"] == label) & (comparison["statistic"] == name)]
    why = unfit(kind_counts(comparison), label)
    if found.empty:
        return Verdict(claim, None, {"unfit": why})
    row = found.iloc[0]
    limit = -margin * row["base"]
    fell = True if row["high"] < limit else False if row["low"] >= limit else None
    if fell and abs(row["difference"]) < row.get("floor", 0):
        fell = None
    holds = None if fell is None or why else fell == should_fall
    return Verdict(claim, holds, row.to_dict() | {"margin": margin, "unfit": why})

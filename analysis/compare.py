"""What tuning did at locks and at forks: a base and a tuned probe of the same positions, compared.

The paper's claim (section 2) is that the tuned model loses the distractor tail at locks and keeps
its head at forks. Both are measured against one set of tokens, the support S that the *base* keeps
under a decoding: the tail is the mass outside S, the head is the distribution inside S.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from ssd_probe.analysis.labels import FORK, LOCK, require_columns, require_exact, stats_of
from ssd_probe.analysis.passk import bootstrap_ratio
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

STATISTICS = ("entropy", "tail_mass", "head_entropy", "branching", "top1_agreement")
_KEYS = ["sample_id", "position", "token_id"]


class Verdict(NamedTuple):
    """One claim of the paper on these probes: `holds` is True, False, or None for undecided."""

    claim: str
    holds: bool | None
    sentence: str


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
    (95 % bootstrap over problems, paired: positions of a problem stay together), missing.
    statistic is one of `STATISTICS`, as `position_statistics` defines them; missing is the share of
    positions at which the tuned ranks lack a token of S. Positions not valid in both are left out.
    noise: the base model's rows of some of the texts, scored in other batches (`Probe.noise`); with
    it comes `floor`, the mean absolute change that this made, and no smaller difference is real.
    Raises UserError when the rows or the labels do not line up.
    """
    kinds = np.asarray(labels)
    if kinds.shape != (len(base),):
        raise UserError(f"{len(kinds)} labels for {len(base)} positions: one each is needed")
    measured = position_statistics(base, tuned, decoding)
    measured["label"] = kinds
    measured = measured[base["valid"].to_numpy(bool) & tuned["valid"].to_numpy(bool)]
    if measured.empty:
        raise UserError("no position is valid in both probes")
    parts = [("all", measured), *measured.groupby("label", sort=True)]
    rows = [
        {"label": label, "statistic": name, **_difference(part, name, n_resamples, seed)}
        for label, part in parts
        for name in STATISTICS
    ]
    table = pd.DataFrame(rows)
    if noise is not None:
        floors = _noise_floors(base, noise, kinds, decoding)
        table["floor"] = [floors.get(key) for key in zip(table.label, table.statistic, strict=True)]
    return table


def position_statistics(
    base: pd.DataFrame, tuned: pd.DataFrame, decoding: Decoding
) -> pd.DataFrame:
    """The statistics of each position in both models: `base_<name>` and `tuned_<name>` columns.

    With S the base's support under `decoding`, and nats throughout:
    entropy         H(p), the whole distribution at T=1
    tail_mass       p(not S) = 1 - KeptMass, summed from the tail up so that 1e-9 stays 1e-9
    head_entropy    H(p(.|S)) at T=1
    branching       exp(H) of the model's own tempered support
    top1_agreement  1 where the top token is the base's
    Also problem_id and `missing`, the tokens of S that the tuned model's K ranks lack: they are
    counted in the tuned tail (which is then an upper bound) and as zero in the tuned head.
    Raises UserError when the rows do not line up. Source: appendix B, eq. 12 and 30.
    """
    _require_same_rows(base, tuned)
    stats, tuned_stats = stats_of(base), stats_of(tuned)
    require_exact(stats, decoding)
    require_exact(tuned_stats, decoding)
    support = stats.support(decoding).numpy()  # [N, K]
    base_ids, tuned_ids = stats.top_ids.numpy(), tuned_stats.top_ids.numpy()
    followed = _same_tokens(base_ids, support, tuned_ids)  # [N, K], on the tuned model's ranks
    columns = {"problem_id": base["problem_id"].to_numpy()}
    for side, own, inside in (("base", stats, support), ("tuned", tuned_stats, followed)):
        probs = own.top_probs().numpy()  # [N, K]
        beyond = own.tail_log_mass.double().exp().numpy()
        columns[f"{side}_entropy"] = own.entropy.double().numpy()
        columns[f"{side}_tail_mass"] = np.where(inside, 0, probs).sum(1) + beyond
        columns[f"{side}_head_entropy"] = _renormalised_entropy(np.where(inside, probs, 0))
        columns[f"{side}_branching"] = own.branching(decoding).numpy()
    columns["base_top1_agreement"] = np.ones(len(base))
    columns["tuned_top1_agreement"] = (base_ids[:, 0] == tuned_ids[:, 0]).astype(float)
    columns["missing"] = support.sum(1) - followed.sum(1)
    return pd.DataFrame(columns, index=base.index)


def verdicts(comparison: pd.DataFrame, margin: float = 0.05) -> list[Verdict]:
    """The paper's two claims, judged on `compare`'s frame, each with a sentence to print.

    Locks lost their tail: the tail mass at locks fell. Forks kept their head: the entropy of the
    head at forks did not fall. "Fell" means that the whole interval of the difference lies below
    -margin times the base's value, "did not" that the whole interval lies above it; an interval
    across it, or none, decides nothing, and nor does a fall below the noise floor.
    """
    return [
        _verdict(comparison, LOCK, "tail_mass", "locks lost their tail", True, margin),
        _verdict(comparison, FORK, "head_entropy", "forks kept their head", False, margin),
    ]


def _noise_floors(
    base: pd.DataFrame, noise: pd.DataFrame, kinds: NDArray, decoding: Decoding
) -> dict[tuple[str, str], float]:
    """By label and statistic: mean |change| of a position when the same model is scored again."""
    again = base["sample_id"].isin(noise["sample_id"].unique()).to_numpy()
    first = base[again].reset_index(drop=True)
    measured = position_statistics(first, noise.reset_index(drop=True), decoding)
    valid = first["valid"].to_numpy(bool) & noise["valid"].to_numpy(bool)
    floors = {}
    for name in STATISTICS:
        change = (measured[f"tuned_{name}"] - measured[f"base_{name}"]).abs()[valid]
        floors["all", name] = change.mean()
        for label, mean in change.groupby(kinds[again][valid]).mean().items():
            floors[label, name] = mean
    return floors


def _difference(part: pd.DataFrame, name: str, n_resamples: int, seed: int) -> dict:
    """One row of `compare`: a mean over positions is a ratio of sums over problems."""
    sides = part[["problem_id", f"base_{name}", f"tuned_{name}"]]
    grouped = sides.groupby("problem_id")
    sums, counts = grouped.sum(), grouped.size()
    change = sums[f"tuned_{name}"] - sums[f"base_{name}"]
    low, high = bootstrap_ratio(change, counts, n_resamples=n_resamples, seed=seed)
    return {
        "positions": len(part),
        "problems": len(counts),
        "base": part[f"base_{name}"].mean(),
        "tuned": part[f"tuned_{name}"].mean(),
        "difference": change.sum() / len(part),
        "low": low,
        "high": high,
        "missing": (part["missing"] > 0).mean(),
    }


def _same_tokens(base_ids: NDArray, support: NDArray, tuned_ids: NDArray) -> NDArray[np.bool_]:
    """Which of the tuned ranks hold a token of the base's support, [N, K].

    One pass per rank of the widest support: [N, K, K] at once would not fit for a long probe.
    """
    found = np.zeros(tuned_ids.shape, bool)
    for rank in np.flatnonzero(support.any(0)):
        wanted = np.where(support[:, rank], base_ids[:, rank], -1)  # -1: also an absent id
        found |= (tuned_ids == wanted[:, None]) & (wanted >= 0)[:, None]
    return found


def _renormalised_entropy(masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of each row of masses [N, K] after division by its sum; 0 for a row of zeros."""
    total = masses.sum(1, keepdims=True)
    return entr(np.divide(masses, total, out=np.zeros_like(masses), where=total > 0)).sum(1)


def _require_same_rows(base: pd.DataFrame, tuned: pd.DataFrame) -> None:
    require_columns(base, ["problem_id", *_KEYS], "the base probe")
    require_columns(tuned, _KEYS, "the tuned probe")
    if len(base) != len(tuned):
        raise UserError(f"the probes differ: {len(base)} base rows, {len(tuned)} tuned rows")
    for name in _KEYS:
        unequal = np.flatnonzero(base[name].to_numpy() != tuned[name].to_numpy())
        if len(unequal):
            raise UserError(f"the probes differ in {name} from row {unequal[0]}: probe both alike")


def _verdict(
    comparison: pd.DataFrame, label: str, name: str, claim: str, should_fall: bool, margin: float
) -> Verdict:
    found = comparison[(comparison["label"] == label) & (comparison["statistic"] == name)]
    if found.empty:
        return Verdict(claim, None, f"{claim}: undecided, no {label} was found.")
    row = found.iloc[0]
    limit = -margin * row["base"]
    fell = True if row["high"] < limit else False if row["low"] >= limit else None
    floor = row.get("floor", 0)
    in_noise = abs(row["difference"]) < floor
    if fell and in_noise:
        fell = None
    holds = None if fell is None else fell == should_fall
    answer = {True: "yes", False: "no", None: "undecided"}[holds]
    return Verdict(
        claim,
        holds,
        f"{claim}: {answer}. Mean {name.replace('_', ' ')} at {label}s "
        f"{row['base']:.3g} -> {row['tuned']:.3g}, difference {row['difference']:+.3g} "
        f"[{row['low']:+.3g}, {row['high']:+.3g}] over {row['positions']} positions "
        f"of {row['problems']} problems."
        + (f" Scoring the base again changes as much: {floor:.2g}." if in_noise else ""),
    )

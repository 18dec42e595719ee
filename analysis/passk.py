"""pass@k of sampled programs: the unbiased estimate, its interval, paired differences.

The unit that is resampled is the problem, never the sample: two samples of one problem are not
independent, and a new benchmark would bring new problems. The paper reports pass@1 and pass@5 of
10 samples a problem, overall and by difficulty (section 1 of its setup, Table 2).
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from ssd_probe.analysis.frames import require_columns
from ssd_probe.errors import UserError

PASS = "pass"
INFRA_ERROR = "infra_error"
DIFFICULTIES = ("easy", "medium", "hard")
_BCA_PROBLEMS = (
    2_000  # the BCa jackknife is quadratic in the problems, and above this it adds nothing
)
_BATCH_ELEMENTS = 2_000_000  # resampled values held at once


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """The unbiased pass@k, `1 - C(n-c, k) / C(n, k)`, as a product that cannot overflow.

    n: samples of each problem; c: how many of them pass; broadcast against each other.
    Raises UserError unless 1 <= k <= n and 0 <= c <= n. Source: Chen et al. 2021, eq. 1.
    """
    samples, passed = np.broadcast_arrays(np.asarray(n, float), np.asarray(c, float))
    if k < 1 or (samples < k).any():
        raise UserError(f"pass@{k} needs 1 <= k <= samples of each problem")
    if ((passed < 0) | (passed > samples)).any():
        raise UserError("pass@k needs 0 <= passes <= samples for each problem")
    draws = np.arange(k)
    wrong = np.maximum(samples[..., None] - passed[..., None] - draws, 0)  # [..., k]
    return 1 - np.prod(wrong / (samples[..., None] - draws), axis=-1)


def bootstrap_ratio(
    sums: ArrayLike, counts: ArrayLike, *, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of `sum(sums) / sum(counts)` when problems are resampled.

    sums, counts: [problems]; counts > 0. BCa where it is defined, else percentile (all jackknife
    values equal, or very many problems). NaN, NaN for fewer than two problems: no spread is known.
    Problems that all agree give a width of zero: the bootstrap cannot see what was never sampled.
    """
    sums, counts = np.asarray(sums, float), np.asarray(counts, float)
    if len(sums) < 2:
        return float("nan"), float("nan")
    estimate = sums.sum() / counts.sum()
    if np.allclose(sums, estimate * counts, rtol=1e-12, atol=0):
        return estimate, estimate

    def interval(method: str) -> tuple[float, float]:
        ends = bootstrap(
            (sums, counts),
            lambda s, c, axis: s.sum(axis) / c.sum(axis),
            n_resamples=n_resamples,
            batch=max(1, _BATCH_ELEMENTS // len(sums)),
            paired=True,
            vectorized=True,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(ends.low), float(ends.high)

    if len(sums) <= _BCA_PROBLEMS:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Where BCa is undefined scipy warns and returns NaN: the percentile answers that.
            warnings.simplefilter("ignore", DegenerateDataWarning)
            low, high = interval("BCa")
        if np.isfinite([low, high]).all():
            return low, high
    return interval("percentile")


def pass_table(
    results: pd.DataFrame,
    ks: Sequence[int] = (1, 5),
    by: str | None = "difficulty",
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """pass@k of one model at one setting: the mean over problems with its 95 % interval, BCa
    bootstrap over problems or, where all pass or all fail, `agreed_interval`.

    results: one row a sampled program (`problem_id, sample, verdict`, and `by`).
    Returns group ("all", then each value of `by`), k, estimate, low, high, problems; and, when the
    results have a bool column `no_code`, `without_code`: the share of samples without any.
    Raises UserError on rows that would make the number wrong (see `count_passes`).
    """
    counts = count_passes(results, by)
    scores = {k: _problem_scores(counts, k) for k in ks}
    rows = []
    for group, members in _groups(counts, by):
        for k in ks:
            values = scores[k][members]
            low, high = _mean_interval(values, 0.0, n_resamples, seed)
            rows.append((group, k, values.mean(), low, high, len(values)))
    table = pd.DataFrame(rows, columns=["group", "k", "estimate", "low", "high", "problems"])
    if "no_code" in results:
        shares = {"all": results["no_code"].mean()}
        if by:
            shares |= results.groupby(by)["no_code"].mean().to_dict()
        table["without_code"] = table["group"].map(shares)
    return table


def paired_difference(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    ks: Sequence[int] = (1, 5),
    by: str | None = "difficulty",
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """pass@k of `tuned` less that of `base` over the problems both hold, resampled in pairs.

    Returns group, k, base, tuned, estimate (the difference), low, high, problems (shared ones);
    intervals as of `pass_table`.
    A problem that only one of the two holds is left out. Raises UserError when none is shared.
    """
    before, after = count_passes(base, by), count_passes(tuned, by)
    shared = before.index.intersection(after.index)
    if shared.empty:
        raise UserError("the two evaluations share no problem_id: nothing to compare")
    before, after = before.loc[shared], after.loc[shared]
    scores = {k: (_problem_scores(before, k), _problem_scores(after, k)) for k in ks}
    rows = []
    for group, members in _groups(before, by):
        for k in ks:
            old, new = (side[members] for side in scores[k])
            low, high = _mean_interval(new - old, -1.0, n_resamples, seed)
            rows.append((group, k, old.mean(), new.mean(), (new - old).mean(), low, high, len(old)))
    columns = ["group", "k", "base", "tuned", "estimate", "low", "high", "problems"]
    return pd.DataFrame(rows, columns=columns)


def pass_curves(
    results: pd.DataFrame,
    ks: Sequence[int] = (1, 5),
    by: str | None = "difficulty",
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`pass_table` of every (model, temperature) of a stacked frame: the data of Figure 2.

    Returns model, temperature and the columns of `pass_table`.
    """
    require_columns(results, ["model", "temperature"], "results")
    tables = [
        pass_table(part, ks, by, n_resamples=n_resamples, seed=seed).assign(
            model=model, temperature=temperature
        )
        for (model, temperature), part in results.groupby(["model", "temperature"], sort=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["model", "temperature", *table.columns.drop(["model", "temperature"])]]


def count_passes(results: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Samples `n` and passes `c` of each problem (the index), and its `by` when given.

    Raises UserError for: a missing column, no rows, an `infra_error` (the sandbox failed, so the
    program was not judged and must not count as wrong), samples of more than one model or
    temperature, the same sample twice, or a problem in two groups.
    """
    needed = ["problem_id", "sample", "verdict", *([by] if by else [])]
    require_columns(results, needed, "results")
    _refuse_unjudged(results)
    for name in {"model", "temperature"} & set(results.columns):
        if results[name].nunique() > 1:
            raise UserError(f"results mix several values of '{name}': take one at a time")
    twice = results[results.duplicated(["problem_id", "sample"])]
    if len(twice):
        first = twice.iloc[0]
        raise UserError(f"problem {first['problem_id']} holds sample {first['sample']} twice")
    passed = (results["verdict"] == PASS).groupby(results["problem_id"])
    counts = pd.DataFrame({"n": passed.size(), "c": passed.sum()})
    if by:
        groups = results.groupby("problem_id")[by]
        if (groups.nunique() > 1).any():
            raise UserError(f"problem {groups.nunique().idxmax()} has more than one '{by}'")
        counts[by] = groups.first()
    return counts


def _refuse_unjudged(results: pd.DataFrame) -> None:
    unjudged = results[results["verdict"].isna() | (results["verdict"] == INFRA_ERROR)]
    if len(unjudged):
        raise UserError(
            f"{len(unjudged)} programs were not judged ({INFRA_ERROR}), first of problem "
            f"{unjudged['problem_id'].iloc[0]}: run those again before counting"
        )


def _problem_scores(counts: pd.DataFrame, k: int) -> pd.Series:
    short = counts[counts["n"] < k]
    if len(short):
        raise UserError(
            f"pass@{k} needs {k} samples, problem {short.index[0]} has {short['n'].iloc[0]}"
        )
    return pd.Series(pass_at_k(counts["n"], counts["c"], k), index=counts.index)


def _groups(counts: pd.DataFrame, by: str | None) -> Iterator[tuple[str, pd.Index]]:
    """ "all" first, then easy, medium, hard in that order, others by name; "" is no group."""
    yield "all", counts.index
    if by:
        rank = {name: i for i, name in enumerate(DIFFICULTIES)}
        names = counts.loc[counts[by].notna() & (counts[by] != ""), by].unique()
        for name in sorted(names, key=lambda name: (rank.get(name, len(rank)), str(name))):
            yield name, counts.index[counts[by] == name]


def agreed_interval(value: float, problems: int, least: float, most: float) -> tuple[float, float]:
    """A 95 % interval of a mean over problems where all that were seen passed, failed or are alike.

        [value - u (value - least), value + u (most - value)],  u = 1 - 0.025^(1 / problems)

    least, most: what a problem's value can be. u is Clopper and Pearson's upper bound of the share
    of problems with another value, of which none was seen; a bootstrap would give a width of zero.
    NaN, NaN for fewer than two problems.
    """
    if problems < 2:
        return float("nan"), float("nan")
    unseen = 1 - 0.025 ** (1 / problems)
    return value - unseen * (value - least), value + unseen * (most - value)


def _mean_interval(
    values: pd.Series, least: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    """Of the mean of values in `least`..1: the bootstrap's, or exact where all are -1, 0 or 1.

    All at another value, as where each problem gained the same, keep the bootstrap's width of zero.
    """
    first = float(values.iloc[0])
    if first in (-1.0, 0.0, 1.0) and (values == first).all():
        return agreed_interval(first, len(values), least, 1.0)
    return bootstrap_ratio(values, np.ones(len(values)), n_resamples=n_resamples, seed=seed)

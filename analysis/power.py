"""How many problems and samples tell a difference in pass@1 from none: a pilot's answer.

A paired difference in pass@1 over N problems with n samples each (both models) has the variance

    se^2 = (tau^2 + w / n) / N,    w = mean over the problems of p (1 - p) + q (1 - q) - 2 c

tau^2: how much the models' true difference q - p varies from problem to problem; w: what more
samples average out. c is the covariance of the two models' answers of one problem and one sample
index: those are drawn from the same stream of random numbers where the seed is the same, and then
vary together. A pilot gives both (Miller 2024, arXiv 2411.00640, sections 3 and 5, whose omega^2
and sigma^2 these are); what it says of w is of trials whose answers are paired as its own are.
The power of a two-sided test at 5 % is then, for a true difference d,

    Phi(|d| / se - 1.96) + Phi(-|d| / se - 1.96)
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ssd_probe.analysis.passk import PASS, count_passes
from ssd_probe.errors import UserError

SIGNIFICANCE = 0.05  # two-sided: that of the 95 % intervals everywhere
POWER = 0.8


@dataclass(frozen=True)
class Spread:
    """Why a paired difference varies: `between` = tau^2, `within` = w, of `problems` in a pilot."""

    between: float
    within: float
    problems: int

    def error(self, problems: ArrayLike, samples: ArrayLike) -> NDArray[np.float64]:
        """The standard error of the difference at so many problems and samples a problem."""
        problems, samples = np.asarray(problems, float), np.asarray(samples, float)
        return np.sqrt((self.between + self.within / samples) / problems)

    def power(self, difference: float, problems: ArrayLike, samples: ArrayLike) -> NDArray:
        """The chance that a true `difference` in pass@1 is told from none."""
        error = np.maximum(self.error(problems, samples), 1e-300)
        critical, far = norm.isf(SIGNIFICANCE / 2), abs(difference) / error
        return norm.cdf(far - critical) + norm.cdf(-far - critical)

    def resolvable(self, problems: ArrayLike, samples: ArrayLike, power: float = POWER) -> NDArray:
        """The least difference told from none with chance `power` (other side's 2.5 % left out)."""
        return (norm.isf(SIGNIFICANCE / 2) + norm.ppf(power)) * self.error(problems, samples)

    def problems_for(self, difference: float, samples: ArrayLike, power: float = POWER) -> NDArray:
        """The fewest problems, 2 at least, at `samples` each, for a `difference` and a `power`.

        NaN where nothing varies: of endless answers a `between` of 0, which is an estimate that was
        not told from 0, says nothing.
        """
        needed = np.ceil((self.resolvable(1, samples, power) / difference) ** 2)
        return np.where(needed > 0, np.maximum(needed, 2), np.nan)


def paired_spread(base: pd.DataFrame, tuned: pd.DataFrame) -> Spread:
    """From two evaluations of the same problems, one row a sample (`problem_id, sample, verdict`).

    Within: p (1 - p) estimated without bias, n / (n - 1) of the observed, and so the covariance
    over the m sample indices that both have; 0 where m < 2. Between: the variance of the observed
    differences less what the answers drawn explain of it, not below 0:

        p (1 - p) / n_p + q (1 - q) / n_q - 2 c m / (n_p n_q),    the mean over the problems

    Errors: `UserError` where fewer than two problems are shared, or one has a single sample, and
    where all answers of the two agree, which says nothing.
    """
    return _spread(_paired(base, tuned))


def resampled(
    base: pd.DataFrame, tuned: pd.DataFrame, *, n_resamples: int = 1000, seed: int = 0
) -> list[Spread]:
    """`paired_spread` of pilots whose problems are drawn from this one's, with replacement."""
    values, rng = _paired(base, tuned), np.random.default_rng(seed)
    draws = rng.integers(len(values), size=(n_resamples, len(values)))
    return [_spread(values[drawn]) for drawn in draws]


def _paired(base: pd.DataFrame, tuned: pd.DataFrame) -> NDArray[np.float64]:
    """Of each shared problem the difference, its variance by the answers drawn, and w; [N, 3]."""
    before, after = count_passes(base), count_passes(tuned)
    shared = before.index.intersection(after.index)
    if len(shared) < 2:
        raise UserError(f"{len(shared)} problems are in both evaluations: at least 2 are needed")
    (p, p_varies, p_of), (q, q_varies, q_of) = (_scores(x.loc[shared]) for x in (before, after))
    together, pairs = _covariances(base, tuned, shared)
    explained = p_varies / p_of + q_varies / q_of - 2 * together * pairs / (p_of * q_of)
    values = np.stack([q - p, explained, p_varies + q_varies - 2 * together], axis=1)
    if np.allclose(values, 0):
        raise UserError(
            "no answer of the two evaluations differs: they say nothing of how much a difference "
            "varies; give those of two models"
        )
    return values


def _covariances(
    base: pd.DataFrame, tuned: pd.DataFrame, problems: pd.Index
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each problem, over the sample indices that both have: c without bias, and how many."""
    keys = ["problem_id", "sample"]
    both = base[[*keys, "verdict"]].merge(tuned[[*keys, "verdict"]], on=keys)
    a, b = (both[name].eq(PASS).astype(float) for name in ("verdict_x", "verdict_y"))
    table = pd.DataFrame({"a": a, "b": b, "ab": a * b, "m": 1.0}).groupby(both["problem_id"]).sum()
    sums = table.reindex(problems, fill_value=0.0)
    m = sums["m"].to_numpy()
    scatter = sums["ab"] - sums["a"] * sums["b"] / np.maximum(m, 1)
    return np.where(m > 1, scatter / np.maximum(m - 1, 1), 0.0), m


def _spread(values: NDArray[np.float64]) -> Spread:
    explained, within = values[:, 1:].mean(axis=0)
    between = np.var(values[:, 0], ddof=1) - explained
    return Spread(max(0.0, float(between)), float(within), len(values))


def unpaired_spreads(base: pd.DataFrame, difference: float) -> tuple[Spread, Spread]:
    """The least and the most spread of a `difference` that one model's evaluation leaves open.

    Least: every problem gains the same (tau^2 = 0). Most: a share |d| of the problems goes from
    never to always, or back, and the others stay: tau^2 = |d| (1 - |d|). `within` is twice the
    model's own. Errors: as `paired_spread`.
    """
    counts = count_passes(base)
    if len(counts) < 2:
        raise UserError("1 problem in the pilot: at least 2 are needed")
    within, size = 2 * float(_scores(counts)[1].mean()), abs(difference)
    return Spread(0.0, within, len(counts)), Spread(size * (1 - size), within, len(counts))


def _scores(counts: pd.DataFrame) -> tuple[NDArray, NDArray, NDArray]:
    """Of each problem pass@1, p (1 - p) estimated without bias, and its samples."""
    n, c = counts["n"].to_numpy(float), counts["c"].to_numpy(float)
    if (n < 2).any():
        raise UserError(
            f"problem {counts.index[int(np.argmax(n < 2))]} has 1 sample in the pilot: at least 2 "
            "are needed, since one says nothing of how much answers vary"
        )
    return c / n, c * (n - c) / (n * (n - 1)), n

"""How many problems and samples tell a difference in pass@1 from none: a pilot's answer.

A paired difference in pass@1 over N problems with n samples each (both models) has the variance

    se^2 = (tau^2 + w / n) / N

tau^2: how much the models' true difference varies from problem to problem; w: the mean over the
problems of p (1 - p) of the one model plus that of the other, which more samples average out. A
pilot gives both (Miller 2024, arXiv 2411.00640, section 5, whose omega^2 and sigma^2 these are).
The power of a two-sided test at 5 % is then, for a true difference d,

    Phi(|d| / se - 1.96) + Phi(-|d| / se - 1.96)
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ssd_probe.analysis.passk import count_passes
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
        """The fewest problems, 2 at least, at `samples` each, for a `difference` and a `power`."""
        ratio = self.resolvable(1, samples, power) / difference
        return np.maximum(np.ceil(ratio**2), 2).astype(int)


def paired_spread(base: pd.DataFrame, tuned: pd.DataFrame) -> Spread:
    """From two evaluations of the same problems, one row a sample (`problem_id, sample, verdict`).

    Within: p (1 - p) estimated without bias, n / (n - 1) of the observed. Between: the variance of
    the observed differences less what `within` explains of it, not below 0.
    Errors: `UserError` where fewer than two problems are shared, or one has a single sample.
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
    return np.stack([q - p, p_varies / p_of + q_varies / q_of, p_varies + q_varies], axis=1)


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

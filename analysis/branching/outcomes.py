"""What became of forced tokens: pass rates with intervals, and outcome-locks and -forks from them.

Every run forces one token of a passing program and lets the model go on. A token *keeps* the
program when its P(pass) is near that of the original token, which is continued in the same way.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta, binomtest

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.errors import UserError

UNDECIDED = "undecided"
NEAR = 0.75  # a token keeps the program from this share of the original's P(pass) on
SURE = 0.9  # posterior probability from which an outcome counts
_QUANTILES = 512  # midpoints at which the original's posterior is looked at
PLACE = ["sample_id", "problem_id", "position"]
TOKEN = [*PLACE, "token_id"]


def branches(tokens: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The table by position and token: `tokens` with runs, passes, same_program, low, high.

    tokens: of `choose_tokens`; runs: one row a run (sample_id, problem_id, position, token_id,
    passed, same). same_program: runs that ended in the original's program. low, high: Wilson's
    95 % interval of P(pass | token), NaN without runs.
    """
    require_columns(runs, [*TOKEN, "passed", "same"], "the runs")
    counted = runs.groupby(TOKEN).agg(
        runs=("passed", "size"), passes=("passed", "sum"), same_program=("same", "sum")
    )
    table = tokens.join(counted, on=TOKEN)
    counts = ["runs", "passes", "same_program"]
    table[counts] = table[counts].fillna(0).astype(int)
    table["low"], table["high"] = wilson(table["passes"], table["runs"])
    return table


def wilson(passes: pd.Series, runs: pd.Series) -> tuple[list[float], list[float]]:
    """Wilson's 95 % interval of each proportion; NaN where there is no run."""
    known = {
        (k, n): binomtest(k, n).proportion_ci(method="wilson") if n else (np.nan, np.nan)
        for k, n in set(zip(passes.tolist(), runs.tolist(), strict=True))
    }
    pairs = [known[pair] for pair in zip(passes.tolist(), runs.tolist(), strict=True)]
    return [float(low) for low, _ in pairs], [float(high) for _, high in pairs]


def outcomes(
    table: pd.DataFrame,
    *,
    near: float = NEAR,
    sure: float = SURE,
    least_probability: float = 0.0,
    tail: bool = False,
) -> pd.DataFrame:
    """`lock`, `fork` or `undecided` for each position, by what became of its tokens.

        P(lock) = E_{r ~ Beta(k0 + 1/2, n0 - k0 + 1/2)} prod_t F_t(near r)

    k0 of n0 runs of the original token passed; F_t is the distribution function of
    Beta(k_t + 1/2, n_t - k_t + 1/2), the posterior (Jeffreys' prior) of P(pass | t). So P(lock) is
    the posterior probability that no other token keeps the program: none passes at least `near`
    times as often as the original. A lock where P(lock) >= sure, a fork where it is <= 1 - sure,
    else undecided; also where the original itself passes in under half of its runs, as nothing can
    be told from a program that the model loses anyway.

    table: of `branches`. Counted are leading tokens (with `tail` the drawn ones too) of at least
    `least_probability`. Returns sample_id, problem_id, position, outcome, p_fork (1 - P(lock)),
    alternatives (tokens counted beside the original), keeping (how many of them are expected to
    keep the program), best_alternative (their highest pass rate, NaN without any), original_rate,
    same_program (share of the alternatives' runs that ended in the original's program, NaN
    without runs).
    Raises UserError for thresholds out of range and a position without its original token's runs.
    """
    if not (0 < near <= 1 and 0.5 < sure < 1):
        raise UserError("outcomes need 0 < near <= 1 and 0.5 < sure < 1")
    require_columns(table, [*TOKEN, "probability", "forced", "original", "runs"], "the branches")
    counted = (table["forced"] == "leading") | tail
    counted &= (table["probability"] >= least_probability) & (table["runs"] > 0)
    rows = []
    for place, group in table.groupby(PLACE, sort=False):
        own = group[group["original"]]
        if len(own) != 1 or own["runs"].item() == 0:
            raise UserError(f"{place[0]}, position {place[2]}: no runs of the original token")
        others = group[counted[group.index] & ~group["original"]]
        rows.append((*place, *_judged(own.iloc[0], others, near, sure)))
    columns = ["outcome", "p_fork", "alternatives", "keeping", "best_alternative", "original_rate",
               "same_program"]  # fmt: skip
    return pd.DataFrame(rows, columns=[*PLACE, *columns])


def _judged(own: pd.Series, others: pd.DataFrame, near: float, sure: float) -> tuple:
    passes, runs = others["passes"].to_numpy(), others["runs"].to_numpy()
    below = _below(int(own["passes"]), int(own["runs"]), passes, runs, near)  # [quantiles, T]
    p_lock = float(below.prod(axis=1).mean())
    rate = own["passes"] / own["runs"]
    if rate < 0.5 or 1 - sure < p_lock < sure:
        outcome = UNDECIDED
    else:
        outcome = LOCK if p_lock >= sure else FORK
    best = float((passes / runs).max()) if len(others) else np.nan
    same = others["same_program"].sum() / runs.sum() if len(others) else np.nan
    keeping = float((1 - below).mean(axis=0).sum())
    return outcome, 1 - p_lock, len(others), keeping, best, rate, same


def _below(k: int, n: int, passes: NDArray, runs: NDArray, near: float) -> NDArray:
    """P(token's rate < near r) for each quantile r of the original's posterior: [quantiles, T]."""
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    original = beta(k + 0.5, n - k + 0.5).ppf(middles)
    return beta(passes + 0.5, runs - passes + 0.5).cdf(near * original[:, None])

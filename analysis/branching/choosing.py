"""Where to force, and what: positions in strata of entropy, their leading tokens and some tail."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pandas as pd

from ssd_probe.analysis.frames import require_columns, stats_of
from ssd_probe.errors import UserError

EDGES = (0.01, 0.05, 0.2, 0.5, 1.0, 1.5)  # nats, between the strata of entropy
TAIL_BELOW = 0.01  # probability, of what counts as the tail
PLAUSIBLE = 0.02  # probability, from which more than the first ranks are forced
MOST_LEADING = 5  # ranks
_KEY = ["sample_id", "position"]
_PLACE = ["sample_id", "problem_id", "position"]


def choose_positions(
    frame: pd.DataFrame, count: int, *, edges: Sequence[float] = EDGES, seed: int = 0
) -> pd.DataFrame:
    """`count` rows of a probe frame, as many from each stratum of entropy as there are.

    In each stratum the order is random (`seed`); strata take turns until `count` is reached or all
    is taken, so a larger `count` gives the same positions and more. Adds `stratum` (0: entropy
    below `edges[0]` nats) and `weight` = positions of the stratum / chosen ones: weighted shares
    are those of all positions. Sorted by sample and position. Rows that are not valid are left out.
    Raises UserError where nothing is left.
    """
    require_columns(frame, [*_KEY, "entropy", "valid"], "the probe")
    valid = frame[frame["valid"].astype(bool)].reset_index(drop=True)
    if valid.empty or count < 1:
        raise UserError("no position to choose from")
    stratum = np.searchsorted(np.asarray(edges), valid["entropy"].to_numpy(), side="right")
    lots = pd.Series(np.random.default_rng(seed).permutation(len(valid)))
    turn = lots.groupby(stratum).rank(method="first")
    order = np.lexsort((stratum, turn.to_numpy()))[:count]
    chosen = valid.loc[order].assign(stratum=stratum[order])
    sizes = pd.Series(stratum).value_counts()
    chosen["weight"] = chosen["stratum"].map(sizes / chosen["stratum"].value_counts())
    return chosen.sort_values(_KEY, kind="stable").reset_index(drop=True)


def choose_tokens(
    positions: pd.DataFrame, *, leading: int = 3, tail: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Which tokens to force at each position: the original, the leading ones and some of the tail.

    positions: rows of a probe frame (`token_id` stands there, `top_ids`, `top_logits`). Leading are
    the first `leading` ranks, and up to rank 5 those of probability above 0.02. Of the other kept
    ranks below 0.01, `tail` are drawn without replacement, each as likely as the model makes it.
    Returns sample_id, problem_id, position, token_id, rank (from 1), probability (at T=1), forced
    ("leading" or "tail"), original (bool); the original token is there whatever its rank (0 where
    beyond the kept ranks), as "leading" where its probability reaches 0.01.
    """
    columns = [*_PLACE, "token_id", "rank", "probability", "forced", "original"]
    probabilities = stats_of(positions).top_probs().numpy()
    rows = []
    for place, p in zip(positions.to_dict("records"), probabilities, strict=True):
        where = tuple(place[name] for name in _PLACE)
        own, ids = place["token_id"], np.asarray(place["top_ids"])
        known = (ids >= 0) & (p > 0)
        ranks = np.arange(1, len(ids) + 1)
        first = known & ((ranks <= leading) | ((ranks <= MOST_LEADING) & (p > PLAUSIBLE)))
        rest = np.flatnonzero(known & ~first & (p < TAIL_BELOW) & (ids != own))
        forced = dict.fromkeys(np.flatnonzero(first).tolist(), "leading")
        forced |= dict.fromkeys(_drawn(rest, p, tail, f"{seed}/{where}"), "tail")
        rows += [(*where, int(ids[at]), int(at) + 1, float(p[at]), kind, int(ids[at]) == own)
                 for at, kind in forced.items()]  # fmt: skip
        if own not in ids[list(forced)]:
            mine = float(np.exp(place["logprob"]))
            rank = int(place["rank"]) if place["rank"] <= len(ids) else 0
            rows.append(
                (*where, own, rank, mine, "leading" if mine >= TAIL_BELOW else "tail", True)
            )
    return pd.DataFrame(rows, columns=columns)


def _drawn(among: np.ndarray, p: np.ndarray, count: int, name: str) -> list[int]:
    """`count` of them by their probability; the same for a position whatever else is chosen."""
    count = min(count, len(among))
    if count == 0:
        return []
    shares = p[among] / p[among].sum()
    rng = np.random.default_rng(list(sha256(name.encode()).digest()))
    return sorted(int(i) for i in rng.choice(among, count, replace=False, p=shares))

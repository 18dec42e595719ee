"""Which positions changed most between two probes."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.examples.chosen import context
from ssd_probe.analysis.frames import require_columns, stacked, stats_of
from ssd_probe.analysis.labels import Rule

RANKS = 20  # leading tokens of each model that are told apart; the others count as one
ROWS = 4096  # compared at a time


def change(base: pd.DataFrame, tuned: pd.DataFrame) -> NDArray[np.float64]:
    """Of each position a lower bound of the total variation 1/2 sum |p(v) - q(v)|; [N], 0 to 1.

    With A and B the leading 20 tokens of p and of q, the largest of

        sum over A of max(p(v) - q(v), 0),  with q(v) at most q's 20th where v is not in B
        sum over B of max(q(v) - p(v), 0),  likewise
        1/2 (sum over A and B of |p(v) - q(v)| + |p(rest) - q(rest)|)

    which is exact where 20 tokens are all that has mass. 0 where one of the two is not valid.
    Raises UserError for missing columns.
    """
    for frame in (base, tuned):
        require_columns(frame, ["valid", "top_ids", "top_logits"], "the probe")
    found = np.zeros(len(base))
    for start in range(0, len(base), ROWS):
        rows = slice(start, start + ROWS)
        found[rows] = _change(base.iloc[rows], tuned.iloc[rows])
    valid = base["valid"].to_numpy(bool) & tuned["valid"].to_numpy(bool)
    return np.where(valid, found, 0.0)


def most_changed(
    parts: Iterable[tuple[pd.DataFrame, pd.DataFrame]], rule: Rule, count: int = 10
) -> pd.DataFrame:
    """The `count` positions of largest `change`, the largest first and one of a problem at most.

    parts: (base, tuned) frames of the same whole texts. Columns: sample_id, problem_id, position,
    token, `label` by `rule` on the base, `change`, `context` (the text before), and of both models
    top_ids and p (their leading tokens' probabilities): base_ids, base_p, tuned_ids, tuned_p.
    """
    found = pd.DataFrame({"change": []})
    for base, tuned in parts:
        changes = pd.Series(change(base, tuned), index=base.index)
        best = changes.groupby(base["problem_id"]).idxmax()
        places = base.index.get_indexer(changes[best].nlargest(count).index)
        rows = base.iloc[places]
        new = rows[["sample_id", "problem_id", "position", "token"]].assign(
            label=rule.label(base).iloc[places],
            change=changes.iloc[places],
            context=[context(base, int(place)) for place in places],
        )
        for side, frame in (("base", rows), ("tuned", tuned.iloc[places])):
            new[f"{side}_ids"] = list(stacked(frame, "top_ids"))
            new[f"{side}_p"] = list(_probabilities(frame))
        found = pd.concat([found, new]) if len(found) else new
        found = found.nlargest(len(found), "change").drop_duplicates("problem_id").head(count)
    return found[found["change"] > 0].reset_index(drop=True)


def _change(base: pd.DataFrame, tuned: pd.DataFrame) -> NDArray[np.float64]:
    ours, theirs = (stacked(frame, "top_ids")[:, :RANKS] for frame in (base, tuned))
    p, q = (_probabilities(frame)[:, :RANKS] for frame in (base, tuned))
    same = ours[:, :, None] == theirs[:, None, :]
    in_b, in_a = same.any(2), same.any(1)
    q_of_a = np.where(in_b, np.einsum("nij,nj->ni", same, q), q[:, -1:])
    p_of_b = np.where(in_a, np.einsum("nij,ni->nj", same, p), p[:, -1:])
    lost, won = (np.maximum(d, 0).sum(1) for d in (p - q_of_a, q - p_of_b))
    p, q = np.where(in_b, p, 0), np.where(in_b, q_of_a, 0)
    coarse = (np.abs(p - q).sum(1) + np.abs(p.sum(1) - q.sum(1))) / 2
    return np.maximum(coarse, np.maximum(lost, won))


def _probabilities(frame: pd.DataFrame) -> NDArray[np.float64]:
    """[N, K] of the leading tokens; of rows that are not valid they say nothing."""
    return stats_of(frame).top_probs().numpy()

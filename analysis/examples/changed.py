"""Which positions changed most between two probes."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.examples.chosen import context
from ssd_probe.analysis.frames import require_columns, stacked, stats_of
from ssd_probe.analysis.labels import Rule
from ssd_probe.kernels.fields import REQUIRED

# For `most_changed`: what is read of the base, and of the tuned model.
COLUMNS = ("sample_id", "problem_id", "position", "token", *REQUIRED), REQUIRED
RANKS = 20  # leading tokens of each model that are told apart; the others count as one
ROWS = 4096  # compared at a time
_TOLD = ["sample_id", "problem_id", "position", "token", "part", "label", "change", "context",
         "base_ids", "base_p", "tuned_ids", "tuned_p"]  # fmt: skip
_NEEDED = ["valid", "top_ids", "top_logits", "max_logit", "log_partition"]


def change(base: pd.DataFrame, tuned: pd.DataFrame, above: float = 0.0) -> NDArray[np.float64]:
    """Of each position a lower bound of the total variation 1/2 sum |p(v) - q(v)|; [N], 0 to 1.

    With A and B the leading 20 tokens of p and of q, the largest of

        sum over A of max(p(v) - q(v), 0),  with q(v) at most q's 20th where v is not in B
        sum over B of max(q(v) - p(v), 0),  likewise
        1/2 (sum over A and B of |p(v) - q(v)| + |p(rest) - q(rest)|)

    which is exact where 20 tokens are all that has mass. 0 where one of the two is not valid, and
    where it is known not to exceed `above`: total variation is at most

        1 - sum of min(p(v), q(v)) over tokens v that have the same rank in both

    which costs far less. Raises UserError for missing columns.
    """
    for frame in (base, tuned):
        require_columns(frame, _NEEDED, "the probe")
    found = np.zeros(len(base))
    valid = base["valid"].to_numpy(bool) & tuned["valid"].to_numpy(bool)
    for start in range(0, len(base), ROWS):
        rows = slice(start, start + ROWS)
        sides = base.iloc[rows], tuned.iloc[rows]
        ours, theirs = (stacked(frame, "top_ids")[:, :RANKS] for frame in sides)
        p, q = (_probabilities(frame) for frame in sides)
        ranks = min(ours.shape[1], theirs.shape[1])
        shared = (ours[:, :ranks] == theirs[:, :ranks]) & (ours[:, :ranks] >= 0)
        most = 1 - (shared * np.minimum(p[:, :ranks], q[:, :ranks])).sum(1)
        some = np.flatnonzero(valid[rows] & (most > above))
        if len(some):
            found[start + some] = _change(ours[some], theirs[some], p[some], q[some])
    return found


def most_changed(
    parts: Iterable[tuple[pd.DataFrame, pd.DataFrame]], rule: Rule, count: int = 10
) -> pd.DataFrame:
    """The `count` positions of largest `change`, the largest first and one of a problem at most.

    parts: (base, tuned) frames of the same whole texts, with `COLUMNS`. Gives sample_id,
    problem_id, position, token, `part` (which of `parts`, from 0), `label` by `rule` on the base,
    `change`, `context` (the text before), and of both models top_ids and p (their leading tokens'
    probabilities): base_ids, base_p, tuned_ids, tuned_p. No row where nothing changed.
    """
    found = pd.DataFrame(columns=_TOLD)
    for number, (base, tuned) in enumerate(parts):
        least = float(found["change"].iloc[-1]) if len(found) == count else 0.0
        changes = pd.Series(change(base, tuned, least))
        changes = changes[changes > least]  # the others come too late
        if not len(changes):
            continue
        problems = base["problem_id"].iloc[changes.index].to_numpy()
        best = changes[changes.groupby(problems).idxmax()].nlargest(count)
        new = _told(base, tuned, best, rule).assign(part=number)
        found = pd.concat([found, new]) if len(found) else new
        found = found.nlargest(len(found), "change").drop_duplicates("problem_id").head(count)
    return found.reset_index(drop=True)


def movements(found: pd.DataFrame) -> pd.DataFrame:
    """From which token to which most probability went, of rows of `most_changed`: lost, won (ids).

    lost: argmax of p(v) - q(v), won: argmax of q(v) - p(v), over both models' leading tokens; one
    that is beyond the other's ranks counts as 0 there. Rows of the same two are one event.
    """
    moved = []
    for row in found.to_dict("records"):
        ids = [row[f"{side}_ids"][:RANKS] for side in ("base", "tuned")]
        p, q = (
            pd.Series(row[f"{side}_p"][:RANKS], index=known)[known >= 0]
            for side, known in zip(("base", "tuned"), ids, strict=True)
        )
        won = q.sub(p, fill_value=0)
        moved.append((int(won.idxmin()), int(won.idxmax())))
    return pd.DataFrame(moved, columns=["lost", "won"], index=found.index)


def _told(base: pd.DataFrame, tuned: pd.DataFrame, best: pd.Series, rule: Rule) -> pd.DataFrame:
    """What `most_changed` says of some rows of a part; best: place -> change."""
    places = [int(place) for place in best.index]
    rows = base.iloc[places]
    new = rows[["sample_id", "problem_id", "position", "token"]].assign(
        label=rule.label(base).iloc[places],
        change=best.to_numpy(),
        context=[context(base, place) for place in places],
    )
    for side, frame in (("base", rows), ("tuned", tuned.iloc[places])):
        new[f"{side}_ids"] = list(stacked(frame, "top_ids"))
        new[f"{side}_p"] = list(stats_of(frame).top_probs().numpy())
    return new


def _change(ours: NDArray, theirs: NDArray, p: NDArray, q: NDArray) -> NDArray[np.float64]:
    """`change` of [n, <= RANKS] leading ids and probabilities."""
    same = ours[:, :, None] == theirs[:, None, :]
    in_b, in_a = same.any(2), same.any(1)
    q_of_a = np.where(in_b, np.einsum("nij,nj->ni", same, q), q[:, -1:])
    p_of_b = np.where(in_a, np.einsum("nij,ni->nj", same, p), p[:, -1:])
    lost, won = (np.maximum(d, 0).sum(1) for d in (p - q_of_a, q - p_of_b))
    p, q = np.where(in_b, p, 0), np.where(in_b, q_of_a, 0)
    coarse = (np.abs(p - q).sum(1) + np.abs(p.sum(1) - q.sum(1))) / 2
    return np.maximum(coarse, np.maximum(lost, won))


def _probabilities(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Of the `RANKS` leading tokens, [N, <= RANKS]: `top_probs` of these alone."""
    whole = frame["max_logit"].to_numpy(float) + frame["log_partition"].to_numpy(float)
    return np.exp(stacked(frame, "top_logits")[:, :RANKS] - whole[:, None])

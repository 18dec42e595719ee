"""Which text Figure 4 shows, and which fork and lock Figures 4 (bars), 5 and 8: typical ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.curves import ranked_probabilities, tempered_ranks
from ssd_probe.analysis.examples.steps import steps_of_row
from ssd_probe.analysis.frames import Missing, attempt, require_exact, stats_of
from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

TEXT_TOKENS = 400  # of Figure 4
BAR_TEMPERATURES = (0.5, 2.0)  # low and high T_eval of Figure 4's bars
RANKS = 12  # of Figure 5
STEP_RANKS = 24  # of Figure 8
CONTEXT = 200  # characters before an example
FEW = (2, 6)  # tokens in the support of a typical fork
WRITTEN = ("text", "thinking", "code")  # segments that a model writes and a person reads
Rows = dict[str, tuple[pd.Series, pd.Series]]


def example_text(base: pd.DataFrame, labels: pd.Series, decoding: Decoding) -> pd.DataFrame:
    """Figure 4's rows: token, label, branching at `decoding` of the start of a typical text.

    Of the texts of at least median length, the one with the median share of forks. Of texts with
    code only the code; of no text more than `TEXT_TOKENS` tokens.
    Raises UserError where there is neither text nor code, or the ranks cannot tell the branching.
    """
    written = base["segment"].isin(["code"] if (base["segment"] == "code").any() else WRITTEN)
    shown = base[written & base["valid"]]
    shown = shown.groupby("sample_id", sort=False).head(TEXT_TOKENS)
    if shown.empty:
        raise UserError("the first part of the probe holds no text or code")
    forks = (labels[shown.index] == FORK).groupby(shown["sample_id"], sort=False)
    long = forks.size() >= forks.size().median()
    shares = forks.mean()[long].sort_values(kind="stable")
    rows = shown[shown["sample_id"] == shares.index[len(shares) // 2]]
    stats = stats_of(rows)
    require_exact(stats, decoding)
    entropy = stats.truncated([decoding]).entropy[:, 0].numpy()
    columns = {"token": rows["token"], "label": labels[rows.index], "branching": np.exp(entropy)}
    return pd.DataFrame(columns)


def example_positions(
    base: pd.DataFrame, tuned: pd.DataFrame, labels: pd.Series, decoding: Decoding
) -> Rows:
    """Rows of both models at a typical fork and a typical lock, by kind; none where there is none.

    The fork: of those whose support under `decoding` holds 2 to 6 tokens, the one of median
    entropy. The lock: of all, the one of median entropy. First tokens of texts, which have nothing
    before them, are taken only where there are no others, and so are forks of other supports.
    """
    valid = base["valid"].to_numpy(bool) & tuned["valid"].to_numpy(bool)
    follows = base["sample_id"].duplicated().to_numpy()
    sizes = stats_of(base).support_size(decoding).numpy()
    few = (sizes >= FEW[0]) & (sizes <= FEW[1])
    entropy = base["entropy"].to_numpy()
    found = {}
    for kind, wishes in ((FORK, (few, follows)), (LOCK, (follows,))):
        places = np.flatnonzero((labels == kind).to_numpy() & valid)
        for wish in wishes:
            places = places[wish[places]] if wish[places].any() else places
        if len(places):
            place = _median(places, entropy)
            row = base.iloc[place].copy()
            row["context"] = context(base, place)
            found[kind] = row, tuned.iloc[place]
    return found


def context(base: pd.DataFrame, place: int) -> str:
    """The text before row `place`, at most its last `CONTEXT` characters; "" without tokens."""
    if "token" not in base:
        return ""
    before = base.iloc[max(0, place - CONTEXT) : place]
    same = before["sample_id"] == base["sample_id"].iloc[place]
    return "".join(before["token"][same])[-CONTEXT:]


def examples(
    rows: Rows, decoding: Decoding, names: tuple[str, str], tokenizer: Any
) -> dict[str, pd.DataFrame | Missing]:
    """`bars` (Figure 4's), `ranked` (Figure 5), `steps` (Figure 8) of `example_positions`' rows.

    names: of the two models; tokenizer: names the tokens of Figure 5. Each frame has label, model
    and context (the text before).
    """
    for kind in (FORK, LOCK):
        if kind not in rows:
            none = Missing(f"the first part of the probe holds no {kind}")
            return dict.fromkeys(("bars", "ranked", "steps"), none)

    def stack(frame: Callable[[pd.Series], pd.DataFrame], sides: int = 1) -> pd.DataFrame:
        frames = [
            frame(row).assign(model=name, label=kind, context=rows[kind][0]["context"])
            for kind in (FORK, LOCK)
            for name, row in zip(names[:sides], rows[kind][:sides], strict=True)
        ]
        return pd.concat(frames, ignore_index=True)

    return {
        "bars": attempt(lambda: stack(lambda row: tempered_ranks(row, decoding, BAR_TEMPERATURES))),
        "ranked": attempt(
            lambda: stack(
                lambda row: ranked_probabilities(row, decoding, RANKS, tokenizer), sides=2
            )
        ),
        "steps": attempt(lambda: stack(lambda row: steps_of_row(row, decoding, STEP_RANKS))),
    }


def _median(places: NDArray[np.int64], values: NDArray) -> int:
    """The place whose value is the (lower) median."""
    order = places[np.argsort(values[places], kind="stable")]
    return int(order[(len(order) - 1) // 2])

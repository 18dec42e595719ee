"""The data of Figures 5 and 6: ranked probabilities, cumulative mass, and truncation curves.

Each function takes the probe of one model, as a frame or as its `PositionStats`; `pooled` joins the
curves of its parts, and `stack_models` puts several models under one another for the figures.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ssd_probe.analysis.frames import require_exact, stats_of
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats

TEMPERATURES = tuple(np.round(np.arange(0.4, 2.01, 0.1), 2).tolist())  # Figures 6b and 6c
Positions: TypeAlias = pd.DataFrame | PositionStats
MASS_BINS = (0.999, 0.995, 0.99, 0.98, 0.95)  # Figure 6d: the least top-20 mass of each bin
_EDGES = [f"{100 * mass:g}" for mass in (1, *MASS_BINS)]
BIN_NAMES = (*(f"{low} to {high}" for high, low in pairwise(_EDGES)), f"below {_EDGES[-1]}")  # in %


def cumulative_mass(frame: Positions, ranks: int = 60) -> pd.DataFrame:
    """Figure 6a: mean mass of the r most likely tokens, and what they miss, for r = 1..ranks.

    Returns rank, mass, miss, positions. `miss` is summed from the far tail inward, not as 1 - mass,
    so the sixth nine is still right; mass = 1 - miss. Raises UserError when the probe keeps fewer
    ranks.
    """
    stats = valid_stats(frame)
    kept = stats.top_ids.shape[1]
    if not 1 <= ranks <= kept:
        raise UserError(f"the probe keeps {kept} ranks, {ranks} were asked for")
    beyond = stats.tail_log_mass.double().exp().mean()
    by_rank = [*stats.top_probs().mean(0)[1:], beyond]  # of ranks 2..K, and beyond
    mean = np.cumsum(by_rank[::-1])[::-1][:ranks]  # from the far tail inward
    table = pd.DataFrame({"rank": np.arange(1, ranks + 1), "mass": 1 - mean, "miss": mean})
    return table.assign(positions=len(stats))


def truncation_curves(
    frame: Positions,
    temperatures: Iterable[float] = TEMPERATURES,
    top_k: int = PAPER_TRAIN.top_k,
    top_p: float = PAPER_TRAIN.top_p,
) -> pd.DataFrame:
    """Figures 6b, 6c: mean number of survivors, and mean entropy after truncation, by temperature.

    Returns temperature, survivors, entropy (nats, of the tempered and truncated distribution),
    positions.
    """
    stats = valid_stats(frame)
    decodings = [Decoding(temperature, top_k, top_p) for temperature in temperatures]
    require_exact(stats, *decodings)
    left = stats.truncated(decodings)
    table = {
        "temperature": [decoding.temperature for decoding in decodings],
        "survivors": left.size.double().mean(0).numpy(),
        "entropy": left.entropy.mean(0).numpy(),
    }
    return pd.DataFrame(table).assign(positions=len(stats))


def entropy_by_mass_bin(
    frame: Positions, decoding: Decoding, *, binned_by: Positions | None = None
) -> pd.DataFrame:
    """Figure 6d: mean entropy after truncation, by how much mass the top 20 tokens hold at T=1.

    A position is in the first bin of `MASS_BINS` whose least mass it reaches; those below all are
    in the last. binned_by: another probe of the same rows whose masses set the bins (the base's,
    so that a bin holds the same positions for both models); by default the frame's own.
    Returns bin (text, in %), least_mass, positions, entropy (nats; NaN where empty).
    Raises UserError when the rows do not line up or the probe keeps fewer than 20 ranks.
    """
    stats = stats_of(frame)
    reference = stats if binned_by is None else stats_of(binned_by)
    if len(reference) != len(stats):
        raise UserError("binned_by must hold the same rows as the probe")
    both = stats.valid & reference.valid
    if not both.all():
        stats = valid_stats(stats.rows(both))
    require_exact(stats, decoding)
    ranks = reference.top_ids.shape[1]
    if ranks < 20:
        raise UserError(f"the mass bins need 20 ranks, the probe keeps {ranks}")
    miss = reference.tail_probability(20).numpy()[both.numpy()]
    allowed = 1 - np.asarray(MASS_BINS)  # increasing: the most a bin may miss
    bins = np.searchsorted(allowed, miss)  # [N], len(MASS_BINS) = below all
    entropy = stats.truncated([decoding]).entropy[:, 0].numpy()
    positions = np.bincount(bins, minlength=len(MASS_BINS) + 1)
    total = np.bincount(bins, weights=entropy, minlength=len(MASS_BINS) + 1)
    mean = np.divide(total, positions, out=np.full(len(total), np.nan), where=positions > 0)
    least_mass = [*MASS_BINS, 0.0]
    return pd.DataFrame(
        {"bin": BIN_NAMES, "least_mass": least_mass, "positions": positions, "entropy": mean}
    )


def ranked_probabilities(
    row: pd.Series, decoding: Decoding, ranks: int = 20, tokenizer: Any = None
) -> pd.DataFrame:
    """Figure 5: the first ranks of one position (a row of a probe), and where `decoding` cuts.

    Returns rank, token_id, token (decoded, or the id as text without a tokenizer), probability
    (at T=1, of the whole vocabulary), kept. Raises UserError when the row holds fewer ranks.
    """
    stats = valid_stats(row.to_frame().T.infer_objects())
    require_exact(stats, decoding)
    probs = stats.top_probs()[0].numpy()
    if not 1 <= ranks <= len(probs):
        raise UserError(f"the probe keeps {len(probs)} ranks, {ranks} were asked for")
    ids = [int(token) for token in row["top_ids"][:ranks]]
    return pd.DataFrame(
        {
            "rank": np.arange(1, ranks + 1),
            "token_id": ids,
            "token": [_shown(i, tokenizer) for i in ids],
            "probability": probs[:ranks],
            "kept": stats.support(decoding)[0, :ranks].numpy(),
        }
    )


def _shown(token: int, tokenizer: Any) -> str:
    """A token as it stands within a text: at its beginning a decoder may drop a space."""
    if tokenizer is None:
        return str(token)
    from ssd_probe.models.tokens import completion_text

    return completion_text(tokenizer, [token], [token], special=True)


def tempered_ranks(
    row: pd.Series, decoding: Decoding, temperatures: Iterable[float]
) -> pd.DataFrame:
    """Figure 4's bars: the ranks of one position (a row of a probe) at other temperatures.

    Returns temperature, rank, probability (among the probe's K ranks, tempered), head (whether the
    support of `decoding` holds it, the same at each temperature).
    """
    stats = valid_stats(row.to_frame().T.infer_objects())
    head = stats.support(decoding)[0].numpy()
    logits = stats.top_logits[0].double()
    return pd.concat(
        pd.DataFrame({
            "temperature": temperature, "rank": np.arange(1, len(head) + 1),
            "probability": (logits / temperature).softmax(0).numpy(), "head": head,
        })
        for temperature in temperatures
    )  # fmt: skip


def stack_models(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One frame of several models' curves, told apart by the column `model`."""
    return pd.concat(
        [frame.assign(model=name) for name, frame in frames.items()], ignore_index=True
    )


def pooled(parts: Iterable[pd.DataFrame], by: str | list[str]) -> pd.DataFrame:
    """The curve of all positions from the same curve of each part: means weighted by positions.

    parts: frames with `by`, which names their rows, `positions`, and means (NaN where there are no
    positions). Raises UserError without parts.
    """
    frames = [frame.set_index(by) for frame in parts]
    if not frames:
        raise UserError("pooled needs the curve of at least one part")
    numbers = frames[0].select_dtypes("number").columns.drop("positions")
    positions = sum(frame["positions"] for frame in frames)
    whole = frames[0].copy()
    for name in numbers:
        total = sum((frame[name] * frame["positions"]).fillna(0) for frame in frames)
        whole[name] = total / positions.where(positions > 0)
    return whole.assign(positions=positions).reset_index()


def valid_stats(frame: Positions) -> PositionStats:
    """The positions whose logits were finite. Raises UserError when none is left."""
    stats = stats_of(frame)
    if not stats.valid.any():
        raise UserError("no position of the probe is valid")
    return stats if stats.valid.all() else stats.rows(stats.valid)

"""The data of Figure 8: one next-token distribution on its way through the decoding pipeline."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ssd_probe.analysis.frames import require_columns
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError


def decoding_steps(
    logits: ArrayLike, decoding: Decoding, *, beyond: float = 0.0, ranks: int = 30
) -> pd.DataFrame:
    """The first ranks of a distribution after each step of temperature -> top-k -> top-p.

    raw          softmax(z), all kept
    temperature  softmax(z / T), all kept
    top-k        the same, the k highest kept
    top-p        renormalised over the top-k survivors, the nucleus kept
    final        renormalised over the nucleus: what is drawn from

    logits [V], any order, or a probe row's K `top_logits` with `beyond`, the mass outside them at
    T=1. "temperature" and "top-k" are then of those K alone when T != 1 (nothing else is known of
    the rest), and `whole` is False there. Returns step, setting (T, top-k or top-p, NaN without),
    rank, index (into `logits`), probability, cumulative, kept, whole; steps that are off are left
    out. At most `ranks` ranks a step.
    Raises UserError for greedy decoding, no finite logit, or, with `beyond`, a top-k not in 1..K.
    Source: Figure 8, appendix A.
    """
    z = np.asarray(logits, np.float64)
    if z.ndim != 1 or np.isnan(z).any() or not np.isfinite(z.max(initial=-np.inf)):
        raise UserError("Figure 8 takes the logits of one position, [V], at least one finite")
    if decoding.is_greedy:
        raise UserError("Figure 8 shows sampling: greedy decoding has no steps")
    if beyond > 0 and not 0 < decoding.top_k <= len(z):
        raise UserError(
            f"{decoding}: {len(z)} logits of a larger vocabulary need a top-k of 1..{len(z)}"
        )
    order = np.argsort(-z, kind="stable")
    z = z[order]
    raw = np.exp(z - logsumexp(z)) * (1 - beyond)
    tempered = np.exp(z / decoding.temperature - logsumexp(z / decoding.temperature))
    whole = not beyond or decoding.temperature == 1
    if decoding.temperature == 1:
        tempered = raw
    everything = np.isfinite(z)
    top_k = _kept(z, replace(decoding, top_p=1.0))
    nucleus = _kept(z, decoding)
    steps = [("raw", raw, everything, True)]
    if decoding.temperature != 1:
        steps.append(("temperature", tempered, everything, whole))
    if decoding.top_k:
        steps.append(("top-k", tempered, top_k, whole))
    if decoding.top_p < 1:
        steps.append(("top-p", _renormalised(tempered, top_k), nucleus, True))
    steps.append(("final", _renormalised(tempered, nucleus), nucleus, True))
    settings = {
        "temperature": decoding.temperature, "top-k": decoding.top_k, "top-p": decoding.top_p,
    }  # fmt: skip
    shown = slice(0, min(ranks, int(everything.sum())))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "step": step,
                    "setting": float(settings.get(step, np.nan)),
                    "rank": np.arange(1, len(z) + 1)[shown],
                    "index": order[shown],
                    "probability": probability[shown],
                    "cumulative": np.cumsum(probability)[shown],
                    "kept": kept[shown],
                    "whole": is_whole,
                }
            )
            for step, probability, kept, is_whole in steps
        ],
        ignore_index=True,
    )


def steps_of_row(row: pd.Series, decoding: Decoding, ranks: int = 30) -> pd.DataFrame:
    """`decoding_steps` of one position of a probe (a row of it), `token_id` in place of index.

    Raises UserError as `decoding_steps` does, and for a row whose logits were not finite.
    """
    needed = ["top_ids", "top_logits", "tail_log_mass", "valid"]
    require_columns(row.to_frame().T, needed, "the probe row")
    if not row["valid"]:
        raise UserError("Figure 8: the logits of this position were not finite")
    ids = np.asarray(row["top_ids"])
    beyond = float(np.exp(np.float64(row["tail_log_mass"])))
    frame = decoding_steps(row["top_logits"], decoding, beyond=beyond, ranks=ranks)
    return frame.assign(token_id=ids[frame["index"]]).drop(columns="index")


def _kept(ranked: NDArray[np.float64], decoding: Decoding) -> NDArray[np.bool_]:
    """`Decoding.kept`, the one judge of what survives, on descending logits."""
    import torch

    return decoding.kept(torch.from_numpy(ranked.copy())).numpy()


def _renormalised(probability: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    inside = np.where(kept, probability, 0.0)
    return inside / inside.sum()

"""A model in training against its start, at the watched places: one row of means for each kind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ssd_probe.analysis.changes import position_statistics
from ssd_probe.decoding import Decoding
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import PairStats, PositionStats
from ssd_probe.models.heads import without_adapter
from ssd_probe.watching.contexts import KINDS, RANKS, Contexts, Forward

# Of `position_statistics`, of the model in hand; `kl` = KL(start || model).
STATISTICS = (
    *("compression", "reshaping", "alignment", "target_kl"),
    *("kept_mass", "tail_mass", "entropy", "head_entropy", "kl"),
)


@contextmanager
def _only_at(model: Any, row: Tensor, at: Tensor) -> Iterator[None]:
    """The output layer sees the hidden states of these places alone: its logits are [1, n, V]."""
    layer = without_adapter(model).get_output_embeddings()
    if layer is None:
        yield
        return

    def choose(_: Any, arguments: tuple) -> tuple:
        hidden, *rest = arguments
        return (hidden[row.to(hidden.device), at.to(hidden.device)][None], *rest)

    handle = layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def forward_of(model: Any, device: torch.device) -> Forward:
    """The model's own logits at places, through its own forward: also sharded, wrapped, adapted."""

    @torch.no_grad()
    def forward(ids: Tensor, mask: Tensor, row: Tensor, at: Tensor) -> Tensor:
        with _only_at(model, row, at):
            out = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        logits = out.logits
        if logits.shape[:2] == (1, len(row)):
            return logits[0]
        return logits[row.to(logits.device), at.to(logits.device)]  # the layer was not asked

    return forward


def compared(start: np.ndarray, logits: Tensor) -> PairStats:
    """The start's logits and the model's [n, V], on the model's device; the result on the host."""
    base = torch.from_numpy(np.array(start)).to(logits.device)  # read into memory here
    return pair_stats(base, logits.float(), top_k=RANKS).cpu()


def means(
    contexts: Contexts, parts: Sequence[PairStats], decoding: Decoding
) -> list[dict[str, Any]]:
    """Means over the places of each kind that there is: `label`, `positions`, `STATISTICS`, nats.

    S, q and T are those of the start under `decoding`; formulas: `analysis.changes`.
    Source: appendix B, eq. 12 and 15.
    """
    base = PositionStats.concat([part.base for part in parts])
    model = PositionStats.concat([part.other for part in parts])
    keys: dict[str, Any] = dict.fromkeys(("problem_id", "sample_id"), contexts.rows)
    keys |= {"position": contexts.at, "token_id": -1}
    frame = pd.DataFrame(keys)
    for name in ("kl_base_other", "js", "tv"):
        frame[name] = np.concatenate([getattr(part, name).numpy() for part in parts])
    frame["other_at_base_top"] = [row for part in parts for row in part.other_at_base_top.numpy()]
    found = position_statistics(frame, frame, decoding, (base, model))
    columns = found[[f"tuned_{name}" for name in STATISTICS]].set_axis(STATISTICS, axis=1)
    kinds = pd.Series(contexts.kinds)
    return [
        {"label": kind, "positions": int((kinds == kind).sum())}
        | columns[kinds == kind].mean().to_dict()
        for kind in KINDS
        if (kinds == kind).any()
    ]

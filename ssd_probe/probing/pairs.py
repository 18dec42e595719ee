"""Two models over the same contexts in one run: each one's statistics, and how far they differ."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_probe.errors import UserError
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.models.heads import hidden_states, log_mass_from, output_rows, own_logits
from ssd_probe.probing.forward import Encoded, Scorer, by_sequence, padded, places

LOGITS = 2**25  # of each model at a time: 128 MB in float32


@dataclass
class PairScorer:
    """A `Scorer` of the base and one of the other model, over the same batches."""

    base: Scorer
    other: Scorer

    def __post_init__(self) -> None:
        require_same_rows(self.base.model, self.other.model)

    @property
    def model(self) -> PreTrainedModel:
        """The base."""
        return self.base.model

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.base.model, self.other.model]

    @property
    def top_k(self) -> int:
        return self.base.top_k

    def batches(self, sequences: list[Encoded]) -> list[list[int]]:
        """Those of the base, or of the other where that one cannot be batched."""
        return (self.base if self.other.head else self.other).batches(sequences)

    @torch.inference_mode()
    def score_batch(self, batch: list[Encoded]) -> list[dict[str, np.ndarray]]:
        """The fields of `PairStats.to_columns` over the scored positions of each sequence; the
        base's own without their prefix."""
        ids, _ = padded(batch, self.base.model.device)
        row, at = places(batch, self.base.model.device)  # [N], [N]
        targets = ids[row, at]
        makers = [_logits(scorer, batch) for scorer in (self.base, self.other)]
        rows = max(1, LOGITS // output_rows(self.base.model))
        parts = []
        for start in range(0, len(at), rows):
            here = slice(start, start + rows)
            base, other = (make(row[here], at[here] - 1) for make in makers)
            stats = pair_stats(
                base, other.to(base.device), top_k=self.base.top_k,
                targets=targets[here], backend=self.base.backend,
            )  # fmt: skip
            columns = stats.to_columns()
            for side, logits in (("base", base), ("other", other)):
                padding = log_mass_from(logits, self.base.tokens)
                mass = (padding - getattr(stats, side).logsumexp).exp().float()
                columns[f"{side}_padding_mass"] = mass.cpu().numpy()
            parts.append(columns)
        columns = {
            name.removeprefix("base_"): np.concatenate([part[name] for part in parts])
            for name in parts[0]
            if name != "valid"  # of both: each side has its own
        }
        return by_sequence(columns, batch)


def _logits(scorer: Scorer, batch: list[Encoded]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function from rows of the batch and positions to the model's logits there."""
    model, head = scorer.model, scorer.head
    ids, mask = padded(batch, model.device)
    if head is None:
        return lambda row, at: own_logits(model, ids, at.to(model.device))
    hidden = hidden_states(model, ids, mask)
    return lambda row, at: head.logits(hidden[row.to(hidden.device), at.to(hidden.device)])


def require_same_rows(base: PreTrainedModel, other: PreTrainedModel) -> None:
    """`UserError` unless both output layers have as many rows."""
    rows = [output_rows(model) for model in (base, other)]
    if rows[0] != rows[1]:
        raise UserError(
            f"the output layers have {rows[0]} and {rows[1]} rows; resize one model to the "
            "other's number (model.resize_token_embeddings)"
        )

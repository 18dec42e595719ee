"""Teacher forcing: token ids in, the statistics of every next-token distribution out.

The transformer runs on a padded batch; the output layer runs on a chunk of positions at a time, so
that [positions, vocabulary] logits never exist as a whole.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_probe.checkpoints import render_prompt
from ssd_probe.data import Prompt, Text
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import PositionStats, position_stats

# Long sequences fill a device on their own, and a padded batch needs a mask of length squared.
MAX_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Encoded:
    """The token ids of one text; its positions [begin, end) are scored, 1 <= begin."""

    text: Text
    ids: list[int]
    prompt_length: int
    begin: int
    end: int


def encode(text: Text, tokenizer: Any) -> Encoded:
    """Saved ids where there are any; text is tokenised, without an end-of-turn token."""
    prompt_ids, ids = text.prompt_ids or [], text.completion_ids
    if text.kind == "source":
        ids = ids or list(tokenizer(text.completion, verbose=False)["input_ids"])
    elif text.prompt_ids is None:
        prompt_ids = render_prompt(tokenizer, Prompt(text.problem_id, text.messages, text.prompt))
    if ids is None:
        ids = tokenizer(text.completion, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [*prompt_ids, *ids]
    return Encoded(text, ids, len(prompt_ids), max(1, len(prompt_ids)), len(ids))


def cut(
    sequences: list[Encoded], model: PreTrainedModel, max_length: int | None
) -> tuple[list[Encoded], int]:
    """The sequences, none longer than `max_length` or the model's context; how many were cut."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = min(max_length or sys.maxsize, context or sys.maxsize)
    rows = input_rows(model)
    for sequence in sequences:
        if max(sequence.ids, default=0) >= rows:
            raise UserError(
                f"{sequence.text.sample_id}: token id {max(sequence.ids)} is outside the model's "
                f"vocabulary of {rows}; were the ids made with another model's tokenizer?"
            )
    kept = [replace(sequence, end=min(sequence.end, limit)) for sequence in sequences]
    if not any(sequence.begin < sequence.end for sequence in kept):
        raise UserError("nothing to score: the texts are empty, or the prompts fill max_length")
    count = sum(len(sequence.ids) > limit for sequence in sequences)
    if count:
        message = f"{count} of {len(kept)} texts are longer than {limit} tokens and were cut there"
        print(message, file=sys.stderr)
    return kept, count


@dataclass
class Scorer:
    """Runs the model over sequences and keeps only the statistics of its logits."""

    model: PreTrainedModel
    top_k: int = 64
    batch_size: int = 8
    rows_per_chunk: int = 1024
    backend: str = "auto"

    @cached_property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        return plain_head(self.model)

    def score(self, sequences: list[Encoded]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """`(index, fields of PositionStats)` of each sequence with scored positions."""
        for batch in self._batches(sequences):
            stats = self._batch([sequences[i] for i in batch]).to_columns()
            row = 0
            for i in batch:
                count = sequences[i].end - sequences[i].begin
                yield i, {name: values[row : row + count] for name, values in stats.items()}
                row += count

    def _batches(self, sequences: list[Encoded]) -> Iterator[list[int]]:
        """Indices, alike in length for little padding; longest first, so memory fails early."""
        scored = [i for i, s in enumerate(sequences) if s.begin < s.end]
        scored.sort(key=lambda i: (-sequences[i].end, i))
        while scored:
            fitting = MAX_BATCH_TOKENS // sequences[scored[0]].end if self.head else 1
            size = max(1, min(self.batch_size, fitting))
            yield scored[:size]
            scored = scored[size:]

    @torch.inference_mode()
    def _batch(self, batch: list[Encoded]) -> PositionStats:
        device = self.model.device
        width = max(s.end for s in batch)
        # Padding to the right is never seen by the positions before it, whatever its id.
        ids = torch.tensor([s.ids[: s.end] + [0] * (width - s.end) for s in batch], device=device)
        mask = torch.tensor([[1] * s.end + [0] * (width - s.end) for s in batch], device=device)
        scored = [(i, t) for i, s in enumerate(batch) for t in range(s.begin, s.end)]
        row, at = torch.tensor(scored, device=device).T  # [N], [N]
        targets = ids[row, at].split(self.rows_per_chunk)
        chunks: Iterator[Tensor]
        if self.head is not None:
            out = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden = out.last_hidden_state[row, at - 1]  # [N, D]
            chunks = map(self.head, hidden.split(self.rows_per_chunk))
        else:
            places = (at - 1).split(self.rows_per_chunk)
            chunks = (_logits(self.model, ids, place) for place in places)
        parts = [
            position_stats(
                logits.float() if logits.dtype == torch.float64 else logits,
                top_k=self.top_k,
                targets=wanted,
                backend=self.backend,
            )
            for logits, wanted in zip(chunks, targets, strict=True)
        ]
        return PositionStats.concat(parts)


@torch.inference_mode()
def plain_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """The output layer, if the logits are just that of the last hidden states; else None.

    Tried, not looked up: scales, caps and biases after the output layer have many names.
    """
    head, base = model.get_output_embeddings(), model.base_model
    if head is None or base is model:
        return None
    ids = torch.arange(16, device=model.device)[None] % input_rows(model)
    hidden = getattr(base(input_ids=ids, use_cache=False), "last_hidden_state", None)
    logits = model(input_ids=ids, use_cache=False).logits
    if hidden is None or hidden.shape[-1] != head.weight.shape[-1]:
        return None
    return head if torch.equal(head(hidden).float(), logits.float()) else None


def input_rows(model: PreTrainedModel) -> int:
    """How many token ids the model knows."""
    embedding: Any = model.get_input_embeddings()
    return embedding.weight.shape[0]


def _logits(model: PreTrainedModel, ids: Tensor, at: Tensor) -> Tensor:
    """Logits [n, V] of one sequence at positions `at`; the model runs anew for every chunk."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        return model(input_ids=ids, use_cache=False, logits_to_keep=at).logits[0]
    return model(input_ids=ids, use_cache=False).logits[0, at]

"""Teacher forcing: token ids in, the statistics of every next-token distribution out.

The transformer runs on a padded batch; the output layer's part is `lm_head_stats`, so the logits
[positions, vocabulary] never exist as a whole.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_probe.errors import UserError
from ssd_probe.kernels.head import Head
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats
from ssd_probe.models.heads import hidden_states, log_mass, log_mass_from, own_logits, read_head
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import continuation_ids, document_ids, render_prompt
from ssd_probe.problems.prompts import Prompt
from ssd_probe.problems.texts import Text

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

    @property
    def is_code(self) -> bool:
        """Python source, by the name of its file."""
        return self.text.kind == "source" and str(self.text.path).endswith((".py", ".pyi"))

    def content(self) -> tuple:
        """All that its rows depend on, but where they end; of its path only what that says."""
        text = self.text
        names = text.sample_id, text.problem_id
        return *names, self.is_code, self.ids, self.prompt_length, self.begin


def encode(text: Text, tokenizer: Any, special: bool = False) -> Encoded:
    """Saved ids where there are any; text is tokenised, without an end-of-turn token.

    The names of special tokens in a text are its letters, or with `special` those tokens.
    """
    prompt_ids, ids = text.prompt_ids or [], text.completion_ids
    if text.kind == "source":
        ids = ids or document_ids(tokenizer, text.completion, special)
    elif text.prompt_ids is None:
        prompt_ids = render_prompt(tokenizer, Prompt(text.problem_id, text.messages, text.prompt))
    before = list(prompt_ids)
    if text.begun:
        before += continuation_ids(tokenizer, prompt_ids, text.begun, special)
    if ids is None:
        ids = continuation_ids(tokenizer, before, text.completion, special)
    ids = [*before, *ids]
    return Encoded(text, ids, len(prompt_ids), max(1, len(before)), len(ids))


def fit(
    sequences: list[Encoded],
    model: PreTrainedModel,
    max_length: int | None,
    too_long: Literal["truncate", "skip"] = "truncate",
) -> tuple[list[Encoded], int]:
    """The sequences, none longer than `max_length` or the model's context; how many were.

    A longer one is scored up to there, or not at all; stderr says so.
    """
    context = context_length(model) or sys.maxsize
    limit = min(max_length or sys.maxsize, context)
    rows = input_rows(model)
    for sequence in sequences:
        if max(sequence.ids, default=0) >= rows:
            raise UserError(
                f"{sequence.text.sample_id}: token id {max(sequence.ids)} is outside the model's "
                f"vocabulary of {rows}; were the ids made with another model's tokenizer?"
            )
    longer = [len(sequence.ids) > limit for sequence in sequences]
    ends = [0 if long and too_long == "skip" else limit for long in longer]
    kept = [replace(s, end=min(s.end, end)) for s, end in zip(sequences, ends, strict=True)]
    if not any(sequence.begin < sequence.end for sequence in kept):
        raise UserError("nothing to score: the texts are empty, or longer than max_length allows")
    if any(longer):
        done = "skipped" if too_long == "skip" else "cut there"
        what = "the model's context" if limit == context else "max_length"
        texts = f"{sum(longer)} of {len(kept)} texts are longer than {limit} tokens, {what}"
        print(f"{texts}: {done}", file=sys.stderr)
    return kept, sum(longer)


@dataclass
class Scorer:
    """Runs the model over sequences and keeps only the statistics of its logits.

    `tokens`: rows of the output layer from there on are padding, no tokens of the tokenizer.
    """

    model: PreTrainedModel
    top_k: int = 64
    batch_size: int = 8
    rows_per_chunk: int = 1024
    backend: str = "auto"
    fp32_head: bool = False
    tokens: int | None = None

    @cached_property
    def head(self) -> Head | None:
        """The output layer, or None (said on stderr) where the model's own logits are needed."""
        head = read_head(self.model)
        if head is None:
            name = type(self.model).__name__
            print(
                f"{name}: unknown output layer; its logits are made by the chunk", file=sys.stderr
            )
        return head.in_float32() if head and self.fp32_head else head

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.model]

    def batches(self, sequences: list[Encoded]) -> list[list[int]]:
        """Indices of the sequences that have scored positions, batch by batch.

        Alike in length, so that there is little padding; longest first, so that memory fails early.
        """
        scored = [i for i, s in enumerate(sequences) if s.begin < s.end]
        scored.sort(key=lambda i: (-sequences[i].end, i))
        batches = []
        while scored:
            fitting = MAX_BATCH_TOKENS // sequences[scored[0]].end if self.head else 1
            size = max(1, min(self.batch_size, fitting))
            batches.append(scored[:size])
            scored = scored[size:]
        return batches

    @torch.inference_mode()
    def score_batch(self, batch: list[Encoded]) -> list[dict[str, np.ndarray]]:
        """The fields of `PositionStats` over the scored positions of each sequence, and
        `padding_mass`, the probability of the output layer's padding rows."""
        ids, mask = padded(batch, self.model.device)
        row, at = places(batch, self.model.device)  # [N], [N]
        targets = ids[row, at]
        options: dict[str, Any] = {"top_k": self.top_k, "backend": self.backend}
        if self.head is not None:
            hidden = hidden_states(self.model, ids, mask)
            # With a model spread over devices, the last layer's is not that of the ids.
            hidden = hidden[row.to(hidden.device), at.to(hidden.device) - 1]  # [N, D]
            stats = self.head.stats(hidden, targets, **options)
            padding = log_mass(self.head, hidden, self.tokens)
        else:
            parts, paddings = [], []
            for start in range(0, len(at), self.rows_per_chunk):
                here = slice(start, start + self.rows_per_chunk)
                logits = own_logits(self.model, ids, at[here] - 1)
                parts.append(position_stats(logits, targets=targets[here], **options))
                paddings.append(log_mass_from(logits, self.tokens))
            stats, padding = PositionStats.concat(parts), torch.cat(paddings)
        columns = stats.to_columns()
        columns["padding_mass"] = (padding - stats.logsumexp).exp().float().cpu().numpy()
        return by_sequence(columns, batch)


@contextmanager
def in_eval(models: list[PreTrainedModel]) -> Iterator[None]:
    """Without dropout; models that were training are so again afterwards."""
    were_training = [model for model in models if model.training]
    for model in were_training:
        model.eval()
    try:
        yield
    finally:
        for model in were_training:
            model.train()


def padded(batch: list[Encoded], device: Any) -> tuple[Tensor, Tensor | None]:
    """Token ids [B, L] and their mask, None where there is no padding.

    Padding to the right is never seen by the positions before it, whatever its id.
    """
    width = max(s.end for s in batch)
    ids = torch.tensor([s.ids[: s.end] + [0] * (width - s.end) for s in batch], device=device)
    if all(s.end == width for s in batch):
        return ids, None
    mask = torch.tensor([[1] * s.end + [0] * (width - s.end) for s in batch], device=device)
    return ids, mask


def places(batch: list[Encoded], device: Any) -> Tensor:
    """Row in the batch and position of every scored token: [2, N]."""
    scored = [(i, t) for i, s in enumerate(batch) for t in range(s.begin, s.end)]
    return torch.tensor(scored, device=device).T


def by_sequence(columns: dict[str, np.ndarray], batch: list[Encoded]) -> list[dict]:
    """Columns over the batch's scored positions -> those of each sequence."""
    edges = np.cumsum([s.end - s.begin for s in batch])[:-1]
    split = {name: np.split(values, edges) for name, values in columns.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(len(batch))]

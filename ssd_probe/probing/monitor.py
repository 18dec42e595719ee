"""Statistics of the distributions that `generate` draws from, while it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import LogitsProcessor

from ssd_probe.errors import UserError
from ssd_probe.kernels.fields import SCALARS
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats


class StatsProcessor(LogitsProcessor):
    """Records `PositionStats` of each step of transformers' `generate`; changes nothing.

        monitor = StatsProcessor(top_k=64)
        found = model.generate(**inputs, logits_processor=[monitor], max_new_tokens=40)
        frame, stats = monitor.result(found, model.generation_config.eos_token_id)

    The model's own logits, in float32: `generate` runs it before temperature, top-k and top-p, but
    after penalties and suppressed tokens of the generation config. Put it first in the list. It
    holds one step's logits, as that step's token, the target, comes with the next. For one
    `generate`; the arguments are those of `position_stats`.
    Errors: `UserError` where sequences do not grow by one token each: beams, assistants.
    """

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.steps: list[PositionStats] = []
        self._ids: Tensor | None = None  # before the pending step's token
        self._logits: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._take(input_ids)
        self._ids, self._logits = input_ids.clone(), scores.detach().clone()
        return scores

    def _take(self, ids: Tensor) -> None:
        """The pending step, whose token is the last of `ids`."""
        if self._ids is None or self._logits is None:
            return
        rows, length = self._ids.shape
        if ids.shape != (rows, length + 1) or (ids[:, :-1] != self._ids).any():
            raise UserError(
                "StatsProcessor: the sequences are not those of the step before and one token; use "
                "one for each generate, with num_beams=1 and no assistant"
            )
        with torch.no_grad():
            self.steps.append(position_stats(self._logits, targets=ids[:, -1], **self.arguments))

    def result(
        self, sequences: Tensor, eos_token_id: int | Sequence[int] | None = None
    ) -> tuple[pd.DataFrame, PositionStats]:
        """Rows by (sequence, step) up to each sequence's end: a frame, and the statistics.

        `sequences` [B, L]: what `generate` returned. The frame has `sequence`, `step` (both from
        0), `token_id` and the scalar statistics. What follows a token of `eos_token_id` is padding
        and left out; None: nothing is.
        Errors: `UserError` before a `generate`, and for another's sequences.
        """
        if self._ids is None:
            raise UserError("StatsProcessor: nothing recorded; give it to generate first")
        if self._logits is not None:
            self._take(sequences[:, : self._ids.shape[1] + 1])
            self._logits = None
        steps = len(self.steps)
        chosen = sequences[:, self._ids.shape[1] + 1 - steps : self._ids.shape[1] + 1]  # [B, S]
        ends = [] if eos_token_id is None else [eos_token_id]
        ended = torch.isin(
            chosen, torch.tensor(ends, dtype=torch.long, device=chosen.device).reshape(-1)
        )
        live = (ended.cumsum(1) - ended.long()) == 0  # up to the first end, with it
        sequence, step = live.nonzero(as_tuple=True)
        stats = PositionStats.concat(self.steps).rows(step * len(chosen) + sequence).cpu()
        columns: dict[str, Any] = {"sequence": sequence, "step": step, "token_id": chosen[live]}
        columns |= {name: getattr(stats, name) for name in (*SCALARS, "target_logprob")}
        columns |= {"target_rank": stats.target_rank, "valid": stats.valid}
        return pd.DataFrame({n: v.cpu().numpy() for n, v in columns.items()}), stats

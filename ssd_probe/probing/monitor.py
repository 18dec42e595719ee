"""Statistics of every distribution while transformers' `generate` draws from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import LogitsProcessor

from ssd_probe.errors import UserError
from ssd_probe.kernels.fields import RANKED
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import IGNORED, position_stats


class StatsProcessor(LogitsProcessor):
    """Records `position_stats` of each step of one `generate` call, and changes nothing.

        monitor = StatsProcessor(stops={tokenizer.eos_token_id})
        ids = model.generate(**inputs, do_sample=True, logits_processor=[monitor])
        monitor.finish(ids).frame()

    transformers runs it after penalties and constraints and before temperature, top-k and top-p:
    without the former, what it sees are the model's own logits. A step's statistics are those that
    a probe of the finished text has at that token, to the rounding of the model's cache.

    `stops`: the ids that end a sequence; what is generated for the batch's sake after one is left
    out. `top_k`, `temperatures`, `vocab_size`, `backend`: see `position_stats`. One step's logits
    are kept, [B, V], as the token drawn from them is known one step later.
    Errors: `UserError` where the rows of the batch change places (beam search), and for a second
    `generate` call.
    """

    def __init__(
        self,
        stops: Iterable[int] = (),
        *,
        top_k: int = 64,
        temperatures: Sequence[float] = (),
        vocab_size: int | None = None,
        backend: str = "auto",
    ) -> None:
        self.stops = sorted(stops)
        self.options: dict[str, Any] = {
            "top_k": top_k, "temperatures": temperatures, "vocab_size": vocab_size,
            "backend": backend,
        }  # fmt: skip
        self._prompt = 0  # tokens before the first step
        self._ids: Tensor | None = None  # [B, L] that the kept logits follow
        self._logits: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor, PositionStats]] = []  # sequences, targets

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record; `scores` [B, V] come back as they are."""
        if self._ids is None:
            self._prompt = input_ids.shape[1]
        else:
            self._close(input_ids)
        self._ids, self._logits = input_ids.clone(), scores.detach().clone()
        return scores

    def finish(self, ids: Tensor | None = None) -> StatsProcessor:
        """Close the last step with what `generate` returned, [B, L]; without, it has no target."""
        if self._logits is not None:
            if ids is None:
                assert self._ids is not None
                ids = torch.nn.functional.pad(self._ids, (0, 1), value=IGNORED)
            self._close(getattr(ids, "sequences", ids))
            self._logits = None
        return self

    def stats(self) -> PositionStats:
        """Of all steps closed, by sequence and then step; with targets. See `frame` for which."""
        order = torch.cat([rows for rows, _, _ in self._recorded()]).argsort(stable=True)
        return PositionStats.concat([stats for _, _, stats in self._recorded()]).rows(order)

    def frame(self) -> pd.DataFrame:
        """A row a step: `sequence` (row of the batch), `step` from 0, `token_id` drawn, and the
        statistics by field name, without the ranks."""
        parts = []
        for step, (rows, targets, stats) in enumerate(self._recorded()):
            columns = {k: v for k, v in stats.to_columns().items() if k not in RANKED}
            known = {"sequence": rows.cpu(), "step": step, "token_id": targets.cpu()}
            parts.append(pd.DataFrame({**known, **columns}))
        return pd.concat(parts).sort_values(["sequence", "step"], ignore_index=True)

    def _recorded(self) -> list[tuple[Tensor, Tensor, PositionStats]]:
        if not self._steps:
            raise UserError("nothing was recorded: give it to generate(logits_processor=[...])")
        return self._steps

    def _close(self, ids: Tensor) -> None:
        """Statistics of the kept logits, now that the tokens drawn from them are known."""
        before, logits = self._ids, self._logits
        if before is None or logits is None or ids.shape != (len(before), before.shape[1] + 1):
            raise UserError("a StatsProcessor records one generate call; make another for the next")
        if not torch.equal(ids[:, :-1], before):
            raise UserError("the batch's rows changed places: beam search cannot be recorded")
        stops = torch.tensor(self.stops, dtype=ids.dtype, device=ids.device)
        alive = ~torch.isin(before[:, self._prompt :], stops).any(-1)
        rows = alive.nonzero()[:, 0]
        targets = ids[rows, -1]
        with torch.no_grad():
            stats = position_stats(logits[rows].float(), targets=targets, **self.options)
        self._steps.append((rows, targets, stats))

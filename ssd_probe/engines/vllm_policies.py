"""Rivals' rules inside vLLM: what its V1 sampler applies to logits, in vLLM's own environment.

A request's `extra_args` are its policy. What is left of its logits is the policy's own
log-probabilities, every removed token at -inf; vLLM draws from them at T=1, with its own top-k,
top-p and min-p off.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from ssd_probe.decoding import spread
from ssd_probe.policies.parsing import policy_in


class Policies(LogitsProcessor):
    """Each row of a batch by its request's policy; rows of requests without one stay."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.model = vllm_config.model_config
        self.rows: dict[int, tuple[str, Sequence[int], Sequence[int]]] = {}
        self.candidates: dict[str, Callable[[Any, Tensor], tuple[Tensor, Tensor]]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        return cached_tokenizer_from_config(self.model)

    def is_argmax_invariant(self) -> bool:
        return False  # so that it comes before the temperature

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self.rows, batch_update, self._row)

    def _row(
        self, params: Any, prompt: Sequence[int] | None, answer: Sequence[int]
    ) -> tuple[str, Sequence[int], Sequence[int]] | None:
        """The policy and the ids before; vLLM appends to `answer`. None: the logits stay."""
        if not params.extra_args:
            return None
        name = json.dumps(params.extra_args, sort_keys=True)
        if name not in self.candidates:
            self.candidates[name] = policy_in(params.extra_args).bound(self.tokenizer)
        return name, prompt or (), answer

    def apply(self, logits: Tensor) -> Tensor:
        for name in {name for name, *_ in self.rows.values()}:
            rows = [row for row, (own, *_) in self.rows.items() if own == name]
            ids, kept = self.candidates[name](self._before(rows), logits[rows])
            left = spread(logits[rows], ids, kept.double().log_softmax(-1))
            logits[rows] = left.to(logits.dtype)
        return logits

    def _before(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """The ids before each row's next token; made only for a policy that reads them."""
        for row in rows:
            _, prompt, answer = self.rows[row]
            yield [*prompt, *answer]

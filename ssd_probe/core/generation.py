"""One batch through transformers' `generate`, with nothing but what is asked.

A model's own generation config is set aside, so that whatever it holds (stop strings, penalties,
assistants, limits of time) neither changes nor breaks an answer.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from ssd_probe.models.limits import context_length, input_rows

PADDED, EQUAL, ALONE = "padded", "equal lengths", "one by one"
TRIED_TOKENS = 24
SMALL = 4_000_000  # parameters, below which a second thread costs more than it computes


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    stops: set[int],
    draw: Callable[[Tensor, Tensor], Tensor] | None = None,
    pad: int = 0,
    **wanted: Any,
) -> Any:
    """What `generate` gives for one batch of prompts, padded on the left.

    The likeliest token is taken, of the scores that `draw` (ids [B, L], scores [B, V]) makes of the
    model's. `wanted`: further fields of the `GenerationConfig`.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=sorted(stops) or None,
        **wanted,
    )
    with _without_own_config(model), _threads_that_help(model):
        return model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )


@contextmanager
def _without_own_config(model: Any) -> Iterator[None]:
    """`generate` fills what is left open from the model's config; for the block that is empty."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _threads_that_help(model: Any) -> Iterator[None]:
    """One for a small model on the CPU, whose operations are shorter than a core's waking."""
    threads = torch.get_num_threads()
    small = model.device.type == "cpu" and model.num_parameters() < SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def batching(model: Any) -> str:
    """Which prompts may share a batch and be answered as each alone: PADDED, EQUAL or ALONE.

    It is tried: the logits of two steps, of a short prompt with and without a longer one beside it,
    then with one as long. States (RWKV) and positions that count from the left (Bart) see padding.
    """
    rows = input_rows(model)
    length = max(1, min(TRIED_TOKENS, (context_length(model) or sys.maxsize) - 2))
    ids = [(7 * i + 3) % rows for i in range(length)]
    short, other = ids[: length // 6 + 1], ids[-(length // 6 + 1) :]
    for companion, how in ((ids, PADDED), (other, EQUAL)):
        try:
            alone, beside = _steps(model, [short]), _steps(model, [short, companion])
        except Exception:  # of whatever kind: then sampling one by one will say it
            continue
        eps = max(torch.finfo(dtype).eps for dtype in (model.dtype, torch.float32))
        tolerance = eps**0.5 / 2 * alone.abs().max()  # also float64 models turn in float32
        if (alone - beside).abs().max() <= tolerance:
            return how
    return ALONE


@torch.no_grad()
def _steps(model: Any, prompts: list[list[int]]) -> Tensor:
    """The first prompt's logits [2, V]: after it, and after one token more, given to all."""

    def first_id(ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(
            1, torch.tensor([1], device=scores.device), 0.0
        )

    asked = {"output_logits": True, "return_dict_in_generate": True}
    made = generate(model, prompts, 2, set(), first_id, **asked)
    return torch.stack([step[0].double() for step in made.logits])

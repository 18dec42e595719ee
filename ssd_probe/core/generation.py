"""One batch through transformers' `generate`, with nothing but what is asked.

A model's own generation config is set aside, so that whatever it holds (stop strings, penalties,
assistants, limits of time) neither changes nor breaks an answer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from ssd_probe.core.threads import cores, is_small


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
    with undisturbed(model), cores(1 if is_small(model) else torch.get_num_threads()):
        return call_padded(model, prompts, new_tokens, stops, draw, pad, **wanted)


def call_padded(
    model: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    stops: set[int],
    draw: Callable[[Tensor, Tensor], Tensor] | None = None,
    pad: int = 0,
    until: Callable[[Tensor, Any], Tensor] | None = None,
    **wanted: Any,
) -> Any:
    """`generate` for a model that is `undisturbed`."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
    return call(model, ids, mask, new_tokens, stops, draw, pad, until, **wanted)


def call(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    new_tokens: int,
    stops: set[int] = frozenset(),  # type: ignore[assignment]
    draw: Callable[[Tensor, Tensor], Tensor] | None = None,
    pad: int = 0,
    until: Callable[[Tensor, Any], Tensor] | None = None,
    cache: Any = None,
    **wanted: Any,
) -> Any:
    """`generate` for padded ids and their mask [B, L], after what `cache` holds of them.

    `until` (ids, scores) -> which rows have ended [B], apart from stop ids. For a model that is
    `undisturbed`; threads may call side by side.
    """
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=sorted(stops) or None,
        **wanted,
    )
    return model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([draw] if draw else []),
        stopping_criteria=StoppingCriteriaList([until] if until else []),
        **({} if cache is None else {"past_key_values": cache}),
    )


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """`generate` fills what is left open from the model's config; for the block that is empty."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own

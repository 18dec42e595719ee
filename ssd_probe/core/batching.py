"""Which prompts may share a batch, and its work, and be answered as each alone: it is tried."""

import sys
from typing import Any

import torch
from torch import Tensor

from ssd_probe.core.generation import generate, undisturbed
from ssd_probe.core.running import Answer, Running
from ssd_probe.models.limits import context_length, input_rows

SHARED, PADDED, EQUAL, ALONE = "shared prefixes", "padded", "equal lengths", "one by one"
TRIED_TOKENS = 24
STEPS = 3


def batching(model: Any) -> str:
    """How a model's prompts may be answered together: SHARED, PADDED, EQUAL or ALONE.

    The logits of a few steps are compared with those of the prompts alone. PADDED: a short prompt
    with a longer one beside it; EQUAL: with one as long. States (RWKV) and positions that count
    from the left (Bart) see padding. SHARED: PADDED, and what `Running` does is sound as well: what
    prompts begin with is computed once, answers come and go. Models with other caches than of full
    attention cannot do that.
    """
    rows = input_rows(model)
    length = max(1, min(TRIED_TOKENS, (context_length(model) or sys.maxsize) - STEPS))
    ids = [(7 * i + 3) % rows for i in range(length)]
    short, other = ids[: length // 6 + 1], ids[-(length // 6 + 1) :]
    try:
        alone = _steps(model, [short])
    except Exception:  # of whatever kind: then sampling one by one will say it
        return ALONE
    for companion, how in ((ids, PADDED), (other, EQUAL)):
        try:
            beside = _steps(model, [short, companion])
        except Exception:
            continue
        if _close(model, alone, beside):
            return SHARED if how == PADDED and _shares(model, ids) else how
    return ALONE


def _close(model: Any, one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same but for rounding; also float64 models turn in float32."""
    eps = max(torch.finfo(dtype).eps for dtype in (model.dtype, torch.float32))
    return bool((one - other).abs().max() <= eps**0.5 / 2 * one.abs().max())


def _forced(ids: Tensor, scores: Tensor) -> Tensor:
    """Token 1 for all."""
    only = torch.tensor([1], device=scores.device)
    return torch.full_like(scores, -torch.inf).index_fill(1, only, 0.0)


@torch.no_grad()
def _steps(model: Any, prompts: list[list[int]]) -> Tensor:
    """The first prompt's logits [STEPS, V]: after it, and after each of the tokens given to all."""
    asked = {"output_logits": True, "return_dict_in_generate": True}
    made = generate(model, prompts, STEPS, set(), _forced, **asked)
    return torch.stack([step[0].double() for step in made.logits])


@torch.no_grad()
def _shares(model: Any, ids: list[int]) -> bool:
    """Whether rows that share a prompt's beginning, lose a neighbour, and get one, stay right."""
    half = len(ids) // 2 + 1
    prompts = [ids, ids, [*ids[:half], *ids[:2]], ids[:1]]
    rooms = [1, STEPS, STEPS, STEPS - 1]
    seen: dict[int, list[Tensor]] = {place: [] for place in range(len(prompts))}

    def draws(places: list[int]) -> Any:
        def record(ids: Tensor, scores: Tensor) -> Tensor:
            for place, row in zip(places, scores.double(), strict=True):
                seen[place].append(row)
            return _forced(ids, scores)

        return record

    answers = [Answer(i, each, rooms[i]) for i, each in enumerate(prompts)]
    try:
        with undisturbed(model):
            running = Running(model, set(), 0, draws)
            running.add([answers[:2], answers[2:3]])
            running.advance(1)
            running.add([answers[3:]])
            while running.answers:
                running.advance(1)
        alone = [_steps(model, [prompt]) for prompt in prompts[1:]]
    except Exception:  # a cache of another kind, or one that a model does not take
        return False
    return all(
        _close(model, steps[: len(seen[i])], torch.stack(seen[i]))
        for i, steps in enumerate(alone, start=1)
    )

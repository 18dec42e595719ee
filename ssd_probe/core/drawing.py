"""Answers to prompts of token ids: each from its own stream of random numbers, kept as they come.

Many answers are drawn side by side; how, is what the model bears (`batching`). What is drawn does
not depend on it, but for rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_probe.core.batching import ALONE, PADDED, SHARED, batching
from ssd_probe.core.generation import call_padded, undisturbed
from ssd_probe.core.requests import Answers, Drawn, Request, collect
from ssd_probe.core.running import STEPS, Answer, Draws, Running, divided, in_order, run
from ssd_probe.core.streams import StreamedDraws, stream
from ssd_probe.core.threads import cores, interleaved, is_small, lane_count
from ssd_probe.decoding import Policy
from ssd_probe.models.limits import input_rows
from ssd_probe.models.tokens import stop_ids


def draw(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    policy: Policy,
    *,
    part: Path | None = None,
    label: str = "sampling",
    progress: bool = True,
    **settings: Any,
) -> list[list[int]]:
    """The new ids of each request, in their order: see `collect`, and `answers` for `settings`."""

    def source(left: Mapping[int, Request]) -> Answers:
        return answers(model, tokenizer, left, policy, **settings)

    found = collect(source, requests, part=part, label=label, progress=progress)
    return [drawn.ids for drawn in found]


def answers(
    model: Any,
    tokenizer: Any,
    requests: Mapping[int, Request],
    policy: Policy,
    *,
    seed: int = 0,
    batch_size: int = 64,
    how: str | None = None,
    stops: Iterable[int] = (),
) -> Answers:
    """The new ids of requests as they end.

    What prompts begin with is computed once, where the model bears it. `stops`: further ids at
    which answers end.

    Errors: `UserError` where the model's logits are no numbers.
    """
    left = [
        Answer(place, list(request.ids), request.room, request.stop, request.begun)
        for place, request in requests.items()
    ]
    ends = stop_ids(model.generation_config, tokenizer) | set(stops)
    works = _works(model, tokenizer, requests, left, policy, seed, batch_size, how, ends)
    with (
        undisturbed(model),
        cores(1 if is_small(model) else torch.get_num_threads()),
        closing(interleaved(works)) as ended,  # type: ignore[type-var]
    ):
        for some in ended:
            yield {answer.place: Drawn(answer.new) for answer in some}


def _works(
    model: Any,
    tokenizer: Any,
    requests: Mapping[int, Request],
    left: Sequence[Answer],
    policy: Policy,
    seed: int,
    batch_size: int,
    how: str | None,
    stops: set[int],
) -> list[Iterator[list[Answer]]]:
    """What each thread does: an iterator of the answers that ended."""
    how = how or batching(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    pad = pad if pad < input_rows(model) else 0  # never seen, but looked up
    streams = {
        answer.place: stream(seed, requests[answer.place].name, requests[answer.place].index)
        for answer in left
    }

    candidates = policy.bound(tokenizer)

    def draws(places: list[int]) -> Draws | None:
        if policy.is_greedy:
            return None
        return StreamedDraws(policy, [streams[place] for place in places], candidates)

    lanes = lane_count(model, min(batch_size, len(left)))
    capacity = max(1, batch_size // lanes)
    if how == SHARED:
        shares = divided(in_order(left), lanes, capacity)
        lane = [Running(model, stops, pad, draws, tokenizer) for _ in shares]
        return [run(each, share, capacity) for each, share in zip(lane, shares, strict=True)]
    batches = _batches(left, capacity, how)
    return [_whole(model, tokenizer, batches[i::lanes], stops, pad, draws) for i in range(lanes)]


def _batches(answers: Sequence[Answer], size: int, how: str) -> list[list[Answer]]:
    """Alike in length, so that little is padding; longest first, so that memory fails early.

    Together are only answers that may grow as long, because the shorter ones' positions grow too.
    """
    ordered = sorted(answers, key=lambda a: (-len(a.ids), a.place))
    size = 1 if how == ALONE else size
    batches = []
    for _, same in groupby(ordered, key=lambda a: (a.room, how == PADDED or len(a.ids))):
        group = list(same)
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


def _whole(
    model: Any,
    tokenizer: Any,
    batches: Sequence[list[Answer]],
    stops: set[int],
    pad: int,
    draws: Callable[[list[int]], Draws | None],
) -> Iterator[list[Answer]]:
    """Each batch in one call of `generate`."""
    for batch in batches:
        prompts, places = [answer.ids for answer in batch], [answer.place for answer in batch]
        width = max(map(len, prompts))
        until = _ended(tokenizer, batch, width) if any(answer.stop for answer in batch) else None
        made = call_padded(model, prompts, batch[0].room, stops, draws(places), pad, until=until)
        for answer, new in zip(batch, made[:, width:].tolist(), strict=True):
            answer.extend(new, stops, tokenizer)
        yield batch


def _ended(tokenizer: Any, batch: Sequence[Answer], width: int) -> Callable[[Tensor, Any], Tensor]:
    """Which rows hold one of their stop strings; looked at once in `STEPS` tokens."""

    def until(ids: Tensor, scores: Any) -> Tensor:
        ended = [False] * len(batch)
        if (ids.shape[1] - width) % STEPS == 0:
            rows = zip(batch, ids[:, width:].tolist(), strict=True)
            ended = [answer.cut(new, tokenizer) is not None for answer, new in rows]
        return torch.tensor(ended, device=ids.device)

    return until

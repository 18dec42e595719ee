"""Answers under way side by side: what begins alike is computed once, who ends makes room.

One prompt's tokens stand in the cache of the *trunk*, of one row; the next prompt keeps what it has
in common with it. Its answers get copies, join those that run (aligned on the right, padding on the
left), and go on together, a few tokens at a time, in transformers' `generate`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from ssd_probe.core.caches import copies, cropped, joined, new_cache, without
from ssd_probe.core.generation import call
from ssd_probe.models.tokens import before_stop

STEPS = 8  # tokens between two looks at who has ended
Draws = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Answer:
    """One answer to draw: what the model sees (`ids`), how many new tokens at most.

    `stop`: strings that end it, and that it then does not hold (see `tokens.before_stop`); they are
    looked for in the answer, which the last `begun` of `ids` belong to.
    """

    place: int
    ids: list[int]
    room: int
    stop: tuple[str, ...] = ()
    begun: int = 0
    new: list[int] = field(default_factory=list)

    def extend(self, ids: Sequence[int], stops: set[int], tokenizer: Any) -> bool:
        """Take in what was drawn, up to an end; whether there was one."""
        end = next((i + 1 for i, token in enumerate(ids) if token in stops), None)
        self.new += ids[:end]
        cut = self.cut(self.new, tokenizer)
        self.new = self.new[:cut]
        return end is not None or cut is not None or len(self.new) >= self.room

    def cut(self, new: list[int], tokenizer: Any) -> int | None:
        """How many new ids stand before a stop string; None where there is none."""
        if not self.stop:
            return None
        prompt = len(self.ids) - self.begun
        kept = before_stop(tokenizer, self.ids[:prompt], self.ids[prompt:] + new, self.stop)
        return None if kept is None else max(0, kept - self.begun)


class Running:
    """Rows of one model. `draws(places)` makes what draws the next tokens of these answers.

    The tokenizer is asked only for answers with stop strings.
    """

    def __init__(
        self,
        model: Any,
        stops: set[int],
        pad: int,
        draws: Callable[[list[int]], Draws | None],
        tokenizer: Any = None,
    ) -> None:
        self.model, self.stops, self.pad, self.draws = model, stops, pad, draws
        self.tokenizer = tokenizer
        self._clear()
        self.trunk: Any = new_cache(model)
        self.trunk_ids: list[int] = []

    def _clear(self) -> None:
        self.answers: list[Answer] = []
        self.ids = self.mask = torch.zeros(0, 0, dtype=torch.long)  # [B, L], one more than cached
        self.cache: Any = None

    def add(self, groups: Sequence[Sequence[Answer]]) -> None:
        """Take in answers; those of a group have all ids but the last in common."""
        caches = [self.cache] if self.answers else []
        for group in groups:
            self._grow_trunk(group[0].ids[:-1] or group[0].ids)
            caches.append(copies(self.trunk, len(group), self.model))
        first = int(self.mask.any(0).long().argmax()) if self.answers else 0
        before = [*zip(self.ids[:, first:].tolist(), self.mask[:, first:].tolist(), strict=True)]
        for answer in (answer for group in groups for answer in group):
            # A prompt of one token is a column that nobody sees, then itself.
            lone = len(answer.ids) == 1
            before.append((answer.ids * 2, [0, 1]) if lone else (answer.ids, [1] * len(answer.ids)))
            self.answers.append(answer)
        width = max(len(ids) for ids, _ in before)
        filled = [width - len(ids) for ids, _ in before]
        self.ids = torch.tensor(
            [[self.pad] * n + [*ids] for n, (ids, _) in zip(filled, before, strict=True)]
        )
        self.mask = torch.tensor(
            [[0] * n + [*mask] for n, (_, mask) in zip(filled, before, strict=True)]
        )
        self.cache = joined(caches, width - 1, self.model)

    def _grow_trunk(self, ids: list[int]) -> None:
        """Let the trunk hold these ids, and keep what it has of them."""
        shared = len(os.path.commonprefix([self.trunk_ids, ids]))
        cropped(self.trunk, shared)
        self.trunk_ids = ids
        if shared < len(ids):
            row = torch.tensor([ids])
            call(self.model, row, torch.ones_like(row), 1, cache=self.trunk, pad=self.pad)

    def advance(self, steps: int = STEPS) -> list[Answer]:
        """Draw at most `steps` tokens for each; the answers that ended, which are gone."""
        count, width = min(steps, *(a.room - len(a.new) for a in self.answers)), self.ids.shape[1]
        draws = self.draws([answer.place for answer in self.answers])
        made = call(
            self.model, self.ids, self.mask, count, self.stops, draws, self.pad, cache=self.cache
        ).cpu()
        drawn = zip(self.answers, made[:, width:].tolist(), strict=True)
        ended = [answer.extend(new, self.stops, self.tokenizer) for answer, new in drawn]
        self.ids = made
        self.mask = torch.nn.functional.pad(self.mask, (0, made.shape[1] - width), value=1)
        return self._drop(ended)

    def _drop(self, ended: list[bool]) -> list[Answer]:
        gone = [row for row, end in enumerate(ended) if end]
        answers = [self.answers[row] for row in gone]
        if len(gone) == len(self.answers):
            self._clear()
        elif gone:
            order = without(self.cache, gone, len(ended))
            self.answers = [self.answers[row] for row in order]
            self.ids, self.mask = self.ids[order], self.mask[order]
        return answers


def in_order(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Groups of answers with all ids but the last in common, in an order that shares much.

    Prompts that share half of their ids with their neighbour in the order of ids stay beside it;
    otherwise the longest come first, so that memory fails early.
    """
    ordered = sorted(answers, key=lambda a: (a.ids[:-1], a.place))
    groups = [list(same) for _, same in groupby(ordered, key=lambda a: a.ids[:-1])]
    families = [groups[:1]] if groups else []
    for one, other in pairwise(groups):
        here, there = one[0].ids, other[0].ids
        if 2 * len(os.path.commonprefix([here, there])) < len(there):
            families.append([])
        families[-1].append(other)
    families.sort(key=lambda family: (-max(len(g[0].ids) for g in family), family[0][0].place))
    return [group for family in families for group in family]


def divided(groups: list[list[Answer]], lanes: int, capacity: int) -> list[list[list[Answer]]]:
    """Groups for each lane, `capacity` rows in turn; larger groups than half of that are parted."""
    most = max(1, capacity // 2)
    parts = [group[i : i + most] for group in groups for i in range(0, len(group), most)]
    total = sum(map(len, parts))
    turn = max(1, min(capacity, -(-total // lanes)))
    shares: list[list[list[Answer]]] = [[] for _ in range(lanes)]
    rows = 0
    for part in parts:
        shares[rows // turn % lanes].append(part)
        rows += len(part)
    return shares


def run(running: Running, groups: Sequence[list[Answer]], capacity: int) -> Iterator[list[Answer]]:
    """Draw all answers of `groups`, up to `capacity` at a time; yields those that ended."""
    left = list(groups)
    while left or running.answers:
        free = capacity - len(running.answers)
        taken: list[list[Answer]] = []
        if free >= capacity / 4 or not running.answers:
            while left and (len(left[0]) <= free or not (taken or running.answers)):
                free -= len(left[0])
                taken.append(left.pop(0))
        if taken:
            running.add(taken)
        yield running.advance()

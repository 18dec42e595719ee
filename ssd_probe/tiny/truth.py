"""True forks and locks of the bundled domain, token by token, by construction.

Each slot of a problem becomes a trie over token ids, weighted by the shares of its alternatives.
Following a program through the tries gives, at every token, the exact set of continuations that
the (noise-free) corpus has there and their probabilities. Two or more: a fork. One: a lock.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ssd_probe.tiny.domain import HEADER, Problem

LOCK, FORK, OFF = "lock", "fork", "off"


@dataclass
class _Node:
    """A prefix of a slot: the share that passes here, and that ends here."""

    mass: float = 0.0
    ends: float = 0.0
    children: dict[int, "_Node"] = field(default_factory=dict)


class Truth:
    """The corpus's own next-token distributions along programs of one problem."""

    def __init__(self, tokenizer: Any, problem: Problem):
        parts = [{HEADER: 1.0}, *(dict(slot.alternatives) for slot in problem.slots)]
        self._end = tokenizer.eos_token_id
        self._tries = [self._trie(tokenizer, alternatives) for alternatives in parts]

    @staticmethod
    def _trie(tokenizer: Any, alternatives: dict[str, float]) -> _Node:
        # Slots begin at line ends, where the tokenizer always splits, so that the tokens of a
        # program are those of its slots, one after the other.
        root = _Node()
        for source, share in alternatives.items():
            node = root
            node.mass += share
            for token in tokenizer(source, add_special_tokens=False)["input_ids"]:
                node = node.children.setdefault(token, _Node())
                node.mass += share
            node.ends += share
        return root

    def walk(self, completion_ids: Sequence[int]) -> list[dict[int, float]]:
        """The distribution before each token, id -> probability; {} after the first wrong token."""
        state: tuple[int, _Node] | None = (0, self._tries[0])
        distributions: list[dict[int, float]] = []
        for token in completion_ids:
            distributions.append(self._distribution(*state) if state else {})
            state = self._advance(*state, token) if state else None
        return distributions

    def _advance(self, slot: int, node: _Node, token: int) -> tuple[int, _Node] | None:
        if token not in node.children and node.ends and slot + 1 < len(self._tries):
            slot, node = slot + 1, self._tries[slot + 1]
        return (slot, node.children[token]) if token in node.children else None

    def _distribution(self, slot: int, node: _Node) -> dict[int, float]:
        chances = {token: child.mass / node.mass for token, child in node.children.items()}
        if node.ends:
            leaving = node.ends / node.mass
            last = slot + 1 == len(self._tries)
            if last:
                after = {self._end: 1.0}
            else:
                after = self._distribution(slot + 1, self._tries[slot + 1])
            for token, chance in after.items():
                chances[token] = chances.get(token, 0.0) + leaving * chance
        return chances

    def labels(self, completion_ids: Sequence[int]) -> list[str]:
        """`lock` or `fork` for each token; `off` after the first that the corpus never writes."""
        return [OFF if not d else FORK if len(d) > 1 else LOCK for d in self.walk(completion_ids)]


def true_labels(
    tokenizer: Any, problems: Sequence[Problem], samples: Sequence[dict]
) -> pd.DataFrame:
    """One row a completion token: `sample_id, position, truth` (position counts the prompt too)."""
    truths = {p.problem_id: Truth(tokenizer, p) for p in problems}
    rows = []
    for sample in samples:
        labels = truths[sample["problem_id"]].labels(sample["completion_ids"])
        start = len(sample["prompt_ids"])
        rows += [(sample["sample_id"], start + i, label) for i, label in enumerate(labels)]
    return pd.DataFrame(rows, columns=["sample_id", "position", "truth"])


def program_rows(tokenizer: Any, problems: Sequence[Problem], seed: int) -> list[dict]:
    """A noise-free program of each problem as the corpus writes it, in the form of sampled rows."""
    rng = random.Random(seed)
    rows = []
    for problem in problems:
        program = problem.program(rng)
        ids = tokenizer(program, add_special_tokens=False)["input_ids"]
        rows.append(
            {
                "sample_id": f"{problem.problem_id}/corpus",
                "problem_id": problem.problem_id,
                "messages": problem.messages,
                "completion": program,
                "prompt_ids": tokenizer.apply_chat_template(
                    problem.messages, add_generation_prompt=True, return_dict=False
                ),
                "completion_ids": [*ids, tokenizer.eos_token_id],
            }
        )
    return rows

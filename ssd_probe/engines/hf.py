"""transformers in this process: any model, any device, any policy."""

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from ssd_probe.core.batching import batching
from ssd_probe.core.drawing import answers
from ssd_probe.core.requests import Answers, Request
from ssd_probe.decoding import Policy
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.limits import Limits, limits_of


class Hf:
    """A checkpoint, loaded when first asked for. Each answer has a stream of random numbers."""

    name = "hf"

    def __init__(self, checkpoint: Checkpoint, batch_size: int = 64) -> None:
        self.checkpoint, self.batch_size = checkpoint, batch_size

    @cached_property
    def limits(self) -> Limits:
        return limits_of(self.checkpoint.model, self.checkpoint.tokenizer)

    @cached_property
    def batches(self) -> str:
        """Which prompts share a batch (`batching`)."""
        return batching(self.checkpoint.model)

    def about(self, policy: Policy) -> dict[str, Any]:
        return {
            "engine": self.name,
            "engine_version": f"transformers {version('transformers')}",
            "order": policy.to_dict()["order"],
        }

    def settings(self) -> dict[str, Any]:
        """How the weights were loaded, where that was asked for."""
        return self.checkpoint.loading.recorded()

    def found(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def answers(self, requests: Mapping[int, Request], policy: Policy, seed: int | None) -> Answers:
        """With `seed` None the streams are those of a seed by the system's random numbers."""
        settings: dict[str, Any] = {"batch_size": self.batch_size, "how": self.batches}
        seed = secrets.randbits(32) if seed is None else seed
        model, tokenizer = self.checkpoint.model, self.checkpoint.tokenizer
        yield from answers(model, tokenizer, requests, policy, seed=seed, **settings)

    def draws(self, ids: Sequence[int], count: int, policy: Policy, seed: int | None) -> list[int]:
        """`count` first tokens after `ids`, each from its own stream."""
        requests = {i: Request("draws", i, ids, 1) for i in range(count)}
        drawn = {p: d for some in self.answers(requests, policy, seed) for p, d in some.items()}
        return [drawn[place].ids[0] for place in range(count)]

    def support(self, ids: Sequence[int], policy: Policy) -> None:
        """It does not tell."""

    def close(self) -> None:
        """Nothing to end: the checkpoint may be in further use."""

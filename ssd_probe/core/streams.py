"""Where a sample's random numbers come from: a stream of its own, named by seed, problem and index.

So two samples never share numbers, whatever the seeds of two runs, and what a prompt's n-th sample
is does not depend on which batch it was drawn in, but for the rounding of the logits.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from ssd_probe.decoding import Policy
from ssd_probe.errors import UserError


def stream(seed: int, problem_id: str, index: int) -> np.random.Generator:
    """The random numbers of one sample: Philox, its key the SHA-256 of the three names."""
    name = hashlib.sha256(json.dumps([seed, problem_id, index]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(name[:16], "little")))


class StreamedDraws(LogitsProcessor):
    """Draws every row's next token from the row's own stream, by inversion.

        token = the first v with  sum_{w <= v} p(w) > u,   p = policy.probabilities(logits)

    Sums run over ids, in float64, so that rounding of the logits moves the edges by no more than
    itself. Only the drawn token is left for `generate`, which then takes the most likely one.
    `candidates`: what `policy.bound(tokenizer)` gave, for a policy that reads the text.
    """

    def __init__(
        self,
        policy: Policy,
        streams: Sequence[np.random.Generator],
        candidates: Callable[[Any, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.candidates, self.streams = candidates or policy.bound(None), streams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [B, V] -> [B, V]: 0 at the drawn token, -inf elsewhere.

        Errors: `UserError` where the model's logits are no numbers.
        """
        ids, logits = self.candidates(input_ids, scores)
        mass = logits.double().softmax(-1).cumsum(-1)
        whole = mass[:, -1:]  # rounding leaves it a little off 1
        if not whole.isfinite().all():
            raise UserError(
                "the model's logits are NaN or infinite, so nothing can be drawn; "
                "are the weights whole, and do they need another dtype?"
            )
        u = torch.tensor([[each.random()] for each in self.streams], dtype=torch.float64)
        below = torch.nextafter(whole, torch.zeros_like(whole))
        wanted = torch.minimum(u.to(mass.device) * whole, below)
        token = ids.gather(-1, torch.searchsorted(mass, wanted, right=True))
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


def seed_of(seed: int, problem_id: str, index: int, bits: int = 63) -> int:
    """The seed of one sample for an engine with random numbers of its own, below 2^`bits`.

    SHA-256 of the three names, as for `stream`.
    """
    name = hashlib.sha256(json.dumps([seed, problem_id, index]).encode()).digest()
    return int.from_bytes(name[:8], "little") >> (64 - bits)

"""The toy machine (paper, section 5, appendix C.4): a chain of forks and locks, and its student.

A run passes a fixed chain of positions; at each it must draw a right token, and all else fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ssd_probe.decoding import Decoding


@dataclass(frozen=True)
class Position:
    """A step of the machine: its distribution [V], the ids that go on, how often it is passed."""

    name: str
    probabilities: NDArray[np.float64]
    right: tuple[int, ...] = (0,)
    times: int = 1


@dataclass(frozen=True)
class Machine:
    """The chain, how the student is made, and how both are decoded (at any temperature)."""

    positions: tuple[Position, ...]
    train: Decoding = Decoding(0.9, 0, 0.85)
    evaluation: Decoding = Decoding(1.0, 0, 0.80)
    robustness: tuple[float, ...] = (0.65, 0.70, 0.75, 0.80, 0.85, 0.90)

    def student(self) -> tuple[Position, ...]:
        """The exact ideal fit (Prop. B.2): each position becomes its own training target."""
        return tuple(
            replace(s, probabilities=policy(s, [self.train.temperature], self.train)[0])
            for s in self.positions
        )


def with_tail(head: Sequence[float], ratio: float, size: int) -> NDArray[np.float64]:
    """`head`, then a geometric tail over the other tokens that sums to the rest, [size]."""
    weights = ratio ** np.arange(size - len(head))
    return np.concatenate([head, (1 - sum(head)) * weights / weights.sum()])


# The ratios are not printed: 0.75 and 0.5 follow from the printed entropies (lock 1.61 bits, fork
# 2.81 bits); the root's 0.5 is a choice, and any up to 0.8 has the same two optima.
PAPER = Machine(
    (
        Position("root", with_tail([0.200, 0.190, 0.329, 0.126], 0.5, 16), (0, 1)),
        Position("fork", with_tail([0.148, 0.280, 0.140, 0.144], 0.5, 16)),
        Position("lock", with_tail([0.750, 0.055, 0.050, 0.037], 0.75, 16), times=3),
    )
)


def policy(position: Position, temperatures: ArrayLike, decoding: Decoding) -> NDArray[np.float64]:
    """What is drawn at a position: [n, V] for n temperatures, which replace `decoding`'s own."""
    temperatures = np.asarray(temperatures, np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(position.probabilities) / temperatures[:, None]
    warped = replace(decoding, temperature=1.0).warp(torch.from_numpy(logits))
    return warped.softmax(-1).numpy()

"""Probe frames of given logits, and their statistics by brute force in plain numpy."""

import numpy as np
import pandas as pd
import torch

from ssd_probe.decoding import Decoding
from ssd_probe.kernels.stats import position_stats

TRAIN = Decoding(1.6, 20, 0.8)


def probe_of(logits: np.ndarray, problems: int = 4, ranks: int = 64) -> pd.DataFrame:
    """A probe frame of logits [N, V], as the probe stage writes it: lists in the ranked columns."""
    columns = position_stats(torch.tensor(logits, dtype=torch.float32), top_k=ranks).to_columns()
    n = len(logits)
    frame = pd.DataFrame({
        "sample_id": np.arange(n) // 5, "problem_id": [f"p{i % problems}" for i in range(n)],
        "position": np.arange(n) % 5, "token_id": np.arange(n),
    })  # fmt: skip
    for name, values in columns.items():
        frame[name] = list(values) if values.ndim == 2 else values
    return frame


def random_logits(n: int = 60, vocab: int = 150, seed: int = 1) -> np.ndarray:
    """From sharp to flat, so that locks, forks and supports of every size occur."""
    rng = np.random.default_rng(seed)
    sharpness = np.geomspace(0.3, 30, n)[:, None]
    return (rng.normal(size=(n, vocab)) * sharpness).astype(np.float32).astype(float)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def entropy_of(p: np.ndarray) -> float:
    return -sum(x * np.log(x) for x in p if x > 0)


def support_of(logits: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Ids that survive, most likely first: one row, written from the paper's appendix A."""
    order = np.argsort(-logits, kind="stable")[: decoding.top_k]
    q = softmax(logits[order] / decoding.temperature)
    before = np.cumsum(q) - q
    return order[before < decoding.top_p]


def branching_of(logits: np.ndarray, decoding: Decoding) -> float:
    kept = support_of(logits, decoding)
    return np.exp(entropy_of(softmax(logits[kept] / decoding.temperature)))


def flat(level: float, vocab: int = 150) -> np.ndarray:
    """A level row with just enough slope that no two logits tie at the k-th."""
    return level - 1e-4 * np.arange(vocab)


def two_way(p: float, vocab: int = 150) -> np.ndarray:
    """Logits of two tokens at p and 1 - p, next to nothing else."""
    logits = flat(-40.0, vocab)
    logits[[3, 7]] = np.log([p, 1 - p])
    return logits

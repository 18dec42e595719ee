"""The statistics from their definitions in extended precision, and the comparison with them.

numpy's longdouble, of 64 bits of mantissa on x86. Row by row, sharing no code with
`kernels/reference.py`, which is tested against it as the fast backends are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ssd_probe.kernels.results import COMPARISONS, PairStats, PositionStats

LONG = np.longdouble
assert np.finfo(LONG).eps < 1e-18, "numpy's longdouble is no wider than float64 on this machine"

# |fast - truth| <= max(absolute, relative * |truth|); a tail below 1e-12 counts for nothing next to
# the head, but its logarithm is held to the same. Varentropy: where nearly all mass lies some nats
# under the largest logit, float32 sums of y^2 cancel down to it.
TOLERANCES = {
    "max_logit": (0, 0), "top_logits": (0, 0), "log_partition": (1e-6, 2e-6),
    "entropy": (1e-6, 2e-6), "varentropy": (1e-5, 2e-6), "log_partition_at": (1e-6, 2e-6),
    "tail_log_mass": (1e-6, 2e-6), "target_logprob": (1e-6, 2e-6),
    # Stated down to a KL of 1e-12. Usually 6e-7; where all the difference lies in tokens of
    # p = e^-80, float32 exponents lose 80 * 6e-8. Rounded log partitions blur TV alone.
    "kl_base_other": (1e-17, 1e-5), "kl_other_base": (1e-17, 1e-5), "js": (1e-17, 1e-5),
    "tv": (2e-7, 1e-5), "other_at_base_top": (0, 0),
}  # fmt: skip
OVERFLOW = 1e30  # a KL that is larger may come back as +inf; other fields only beyond float32
EXACT = ("top_ids", "valid", "target_rank")

Truth = dict[str, np.ndarray]


def position_stats(
    logits: Tensor,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
) -> Truth:
    """Fields of `PositionStats` by name; those of targets only where there are some."""
    wanted = [None] * len(logits) if targets is None else targets.tolist()
    rows = logits[:, :vocab_size].double().cpu().numpy()
    found = [_position(z, top_k, temperatures, t) for z, t in zip(rows, wanted, strict=True)]
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def _position(z: np.ndarray, top_k: int, temperatures: Sequence[float], target: int | None) -> dict:
    if (np.isnan(z) | (z == np.inf)).any() or not (z > -np.inf).any():
        return _invalid(top_k, temperatures, target)
    order = np.argsort(-z, kind="stable")
    y = z[order].astype(LONG) - LONG(z[order[0]])  # y[0] = 0 is the largest
    w = np.exp(y)
    log_partition = np.log1p(w[1:].sum())
    p, some = w / (1 + w[1:].sum()), ~(w == 0)
    mean = (p[some] * y[some]).sum()
    ids = np.full(top_k, -1)
    values = np.full(top_k, -np.inf)
    k = min(top_k, (z > -np.inf).sum())
    ids[:k], values[:k] = order[:k], z[order[:k]]
    row = {
        "max_logit": z[order[0]], "log_partition": log_partition,
        "entropy": log_partition - mean, "varentropy": (p[some] * (y[some] - mean) ** 2).sum(),
        "tail_log_mass": _log_sum(y[top_k:]) - log_partition,
        "top_logits": values, "top_ids": ids, "valid": True,
        "log_partition_at": [np.log1p(np.exp(y[1:] / LONG(t)).sum()) for t in temperatures],
    }  # fmt: skip
    if target is not None:
        there = 0 <= target < len(z)
        row["target_logprob"] = LONG(z[target]) - z[order[0]] - log_partition if there else np.nan
        row["target_rank"] = 1 + np.flatnonzero(order == target)[0] if there else -1
    return row


def _invalid(top_k: int, temperatures: Sequence[float], target: int | None) -> dict:
    single = ("max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass")
    row = dict.fromkeys(single, np.nan) | {
        "top_logits": np.full(top_k, np.nan), "top_ids": np.full(top_k, -1), "valid": False,
        "log_partition_at": np.full(len(temperatures), np.nan),
    }  # fmt: skip
    return row if target is None else row | {"target_logprob": np.nan, "target_rank": -1}


def _log_sum(y: np.ndarray) -> LONG:
    """log sum e^y of y in descending order."""
    if not len(y) or y[0] == -np.inf:
        return LONG(-np.inf)
    return y[0] + np.log1p(np.exp(y[1:] - y[0]).sum())


def pair_stats(base_logits: Tensor, other_logits: Tensor, **arguments) -> Truth:
    """Fields of `PairStats` by name but for its `base` and `other`."""
    base = position_stats(base_logits, **arguments)
    other = position_stats(other_logits, **arguments)
    vocab_size = arguments.get("vocab_size")
    x, y = (t[:, :vocab_size].double().cpu().numpy() for t in (base_logits, other_logits))
    valid, nan = base["valid"] & other["valid"], (np.nan,) * 4
    found = [_divergences(a, b) if ok else nan for a, b, ok in zip(x, y, valid, strict=True)]
    at_top = np.take_along_axis(y, np.maximum(base["top_ids"], 0), 1)
    at_top[base["top_ids"] < 0] = -np.inf
    at_top[~valid] = np.nan
    columns = dict(zip(COMPARISONS, np.array(found).T, strict=True))
    return columns | {"other_at_base_top": at_top, "valid": valid}


def _divergences(x: np.ndarray, y: np.ndarray) -> tuple:
    """KL(p||q), KL(q||p), JS, TV: sums of elements none of which is negative."""
    some = (x > -np.inf) | (y > -np.inf)
    log_p, log_q = _log_softmax(x[some]), _log_softmax(y[some])
    gap = -np.abs(log_p - log_q)
    high = np.exp(np.maximum(log_p, log_q))
    tv = -high * np.expm1(gap) / 2
    return _kl(log_p, log_q), _kl(log_q, log_p), (high * _js(gap)).sum(), tv.sum()


def _log_softmax(z: np.ndarray) -> np.ndarray:
    y = z.astype(LONG) - LONG(z.max())
    return y - _log_sum(np.sort(y)[::-1])


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> LONG:
    """sum of p (e^d - 1 - d), where d = log q - log p."""
    d = log_q - log_p
    if (d == -np.inf).any():
        return LONG(np.inf)
    p, near = np.exp(log_p), np.abs(d) < 1
    close, power = 0, np.where(near, d, 0)
    for n in range(2, 25):
        power = power * np.where(near, d, 0) / n
        close = close + power
    apart = np.exp(log_q) - p - p * np.where((p > 0) & ~near, d, 0)
    return np.where(near, p * close, apart).sum()


def _js(gap: np.ndarray) -> np.ndarray:
    """(log(1/m) + r log(r/m)) / 2 where r = e^gap, gap <= 0, and m = (1 + r) / 2."""
    u, r = np.maximum(gap, -1) / 2, np.exp(gap)
    close = np.exp(u) * (u * np.sinh(u) - np.cosh(u) * np.log1p(2 * np.sinh(u / 2) ** 2))
    log_m = np.log((1 + r) / 2)
    apart = (r * (np.where(r > 0, gap, 0) - log_m) - log_m) / 2
    return np.where(gap > -1, close, apart)


def differences(
    got: PositionStats | PairStats,
    truth: Truth,
    names: Sequence = (),
    tolerances: Mapping[str, tuple[float, float]] = TOLERANCES,
) -> list[str]:
    """What is beyond its tolerance, a line each, at most three a field, with the row's name."""
    names = names or range(len(got))
    found = []
    for field, want in truth.items():
        values = getattr(got, field)
        if values is None:
            found.append(f"{field}: missing")
            continue
        tolerance = (0, 0) if field in EXACT else tolerances[field]
        most = OVERFLOW if field.startswith("kl") else np.finfo(np.float32).max
        wrong = _wrong(values.cpu().numpy(), want, tolerance, most)
        for i in np.flatnonzero(wrong.reshape(len(want), -1).any(-1))[:3]:
            at = np.flatnonzero(wrong[i].reshape(-1))[0]
            a, b = values[i].cpu().numpy().reshape(-1)[at], want[i].reshape(-1)[at]
            found.append(f"{field} of {names[i]}: {a!r}, right is {b!r}")
    return found


def _wrong(
    got: np.ndarray, want: np.ndarray, tolerance: tuple[float, float], most: float
) -> np.ndarray:
    if got.shape != want.shape:
        return np.ones(want.shape, bool)
    finite = np.isfinite(want) & np.isfinite(got)
    size = np.abs(np.where(finite, want, 0))
    error = np.abs(np.where(finite, got, 0).astype(LONG) - np.where(finite, want, 0))
    close = finite & (error <= np.maximum(tolerance[0], tolerance[1] * size))
    overflows = (np.abs(want) > most) & (got == np.copysign(np.inf, want))
    return ~(close | overflows | (got == want) | (np.isnan(got) & np.isnan(want)))

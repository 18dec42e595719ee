"""The oracle against a hundred digits, and the float64 reference against the oracle."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from ssd_probe.kernels import reference
from ssd_probe.kernels.results import COMPARISONS
from tests import oracle
from tests.rows import DTYPES, RECIPES, Row, corpus

# What float64 may lose, as `oracle.TOLERANCES` has for float32.
IN_FLOAT64 = {name: (1e-12, 1e-10) for name in oracle.TOLERANCES} | dict.fromkeys(
    ("kl_base_other", "kl_other_base", "js"), (1e-22, 2e-9)
)
ROWS = [
    Row(), Row("ties"), Row("lock"), Row("one hot"), Row("huge"), Row("subnormal"), Row("cubed"),
    Row(shift=-1e4), Row(mask=-1e10), Row(scale=500), Row("real 2"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _many_digits():
    with mpmath.workdps(120):  # e^-100 beside 1 leaves 76 of them
        yield


def exactly(z: list[float], top_k: int, temperature: float) -> dict[str, mpmath.mpf]:
    """The definitions, term by term."""
    y = [mpmath.mpf(v) - max(z) for v in z]
    w = [mpmath.exp(v) for v in y]
    log_partition = log_sum(w)
    p = [v / mpmath.fsum(w) for v in w]
    log_p = [v - log_partition for v in y]
    entropy = -mpmath.fsum(a * b for a, b in zip(p, log_p, strict=True))
    tail = mpmath.fsum(sorted(p)[: len(p) - top_k])
    return {
        "log_partition": log_partition, "entropy": entropy,
        "varentropy": mpmath.fsum(
            a * (b + entropy) ** 2 for a, b in zip(p, log_p, strict=True)
        ),
        "tail_log_mass": mpmath.log(tail) if tail else -mpmath.inf,
        "log_partition_at": log_sum([mpmath.exp(v / temperature) for v in y]),
        "target_logprob": log_p[7],
    }  # fmt: skip


def log_sum(w: list[mpmath.mpf]) -> mpmath.mpf:
    """log sum w, of which the largest is 1."""
    return mpmath.log1p(mpmath.fsum(sorted(w)[:-1]))


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_statistics_have_sixteen_digits(row):
    z = row.build(40)[None]
    arguments = {"top_k": 5, "temperatures": (0.3,), "targets": torch.tensor([7])}
    got = oracle.position_stats(z, **arguments)
    for name, want in exactly(z[0].double().tolist(), 5, 0.3).items():
        close(got[name].item() if got[name].ndim == 1 else got[name][0, 0], want, name)


@pytest.mark.parametrize("noise", [1e-6, 9e-4, 0.3, 5.0, 300.0])
@pytest.mark.parametrize("row", [Row(), Row("lock"), Row("real 2"), Row(shift=1e4)], ids=repr)
def test_divergences_have_twelve_digits(row, noise):
    """Of nineteen, log q - log p has lost six where p and q agree to six."""
    x, y = row.build(40)[None], replace(row, noise=noise).build(40)[None]
    p, q = ([mpmath.exp(v) for v in z[0].double().tolist()] for z in (x, y))
    p, q = ([v / mpmath.fsum(w) for v in w] for w in (p, q))
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(u, v):
        return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(u, v, strict=True))

    tv = mpmath.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    truth = kl(p, q), kl(q, p), (kl(p, m) + kl(q, m)) / 2, tv
    got = oracle.pair_stats(x, y)
    for name, want in zip(COMPARISONS, truth, strict=True):
        close(got[name][0], want, name, 1e-12 if abs(row.shift) < 1e3 else 1e-8)


def close(got: np.longdouble, want: mpmath.mpf, name: str, relative: float = 1e-16) -> None:
    if abs(want) < mpmath.mpf("1e-4900"):  # less than there are exponents for
        assert got == 0, name
    else:
        digits = mpmath.mpf(np.format_float_scientific(got, precision=25))
        assert abs(digits / want - 1) < relative, (name, got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "top_k"), [(1, 1), (17, 64), (507, 16), (5003, 64)])
def test_the_reference_is_right(size, top_k, dtype):
    rows = corpus(size, dtype)
    names, logits = list(rows), torch.stack([*rows.values()])
    arguments = {
        "top_k": top_k, "temperatures": (1e-5, 0.7, 1.6, 1e40),
        "targets": torch.arange(len(names)) * 7919 % (size + 1) - 1,
    }  # fmt: skip
    arguments["targets"][arguments["targets"] < 0] = -100
    want = oracle.position_stats(logits, **arguments)
    got = reference.position_stats(logits, **arguments)
    assert not oracle.differences(got, want, names, IN_FLOAT64)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 1.0, None])
def test_the_reference_is_right_of_pairs(noise):
    x = torch.stack([row.build(507) for row in RECIPES])
    if noise is None:
        y = x.roll(1, 0)
    else:
        y = torch.stack([replace(row, noise=noise).build(507) for row in RECIPES])
    want = oracle.pair_stats(x, y, top_k=16)
    assert not oracle.differences(reference.pair_stats(x, y, top_k=16), want, RECIPES, IN_FLOAT64)

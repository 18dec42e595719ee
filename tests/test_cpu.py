"""What the worst rows, targets and temperatures give on CPUs, by both backends."""

import importlib
import itertools
import math
import os
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.kernels import reference
from ssd_probe.kernels.cpu import drop_stale
from ssd_probe.kernels.cpu.rows import CHUNK
from ssd_probe.kernels.head import lm_head_stats
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import COMPARISONS
from ssd_probe.kernels.stats import position_stats

BACKENDS = ["torch", "cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BITS = {  # of NaN, quiet and signalling, least and largest payload
    torch.float32: (torch.int32, 0x7F800000, 0x00400000),
    torch.bfloat16: (torch.int16, 0x7F80, 0x0040),
    torch.float16: (torch.int16, 0x7C00, 0x0200),
}
SIZE = 1100


def nans(dtype: torch.dtype) -> torch.Tensor:
    """NaN of both signs: quiet, signalling, and all bits set."""
    whole, exponent, quiet = BITS[dtype]
    sign = torch.iinfo(whole).min
    payloads = [quiet, 1, 2 * quiet - 1]
    bits = [s + exponent + p for s in (0, sign) for p in payloads]
    return torch.tensor(bits, dtype=whole).view(dtype)


def backgrounds(dtype: torch.dtype) -> list[torch.Tensor]:
    """Rows without NaN: random, and ten finite logits among masks of each kind."""
    rows = [torch.randn(SIZE).to(dtype)]
    for mask in (-torch.inf, max(-1e10, torch.finfo(dtype).min), torch.finfo(dtype).min):
        rows.append(torch.full((SIZE,), mask, dtype=dtype))
        rows[-1][:10] = torch.arange(10.0)
    return rows


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_nan_of_any_kind_anywhere_is_seen(backend, dtype):
    cases = itertools.product(backgrounds(dtype), nans(dtype), (0, 9, 255, 256, 600, SIZE - 1))
    good, rows = [], []
    for row, nan, place in cases:
        good.append(row)
        rows.append(row.clone())
        rows[-1].view(BITS[dtype][0])[place] = nan.view(BITS[dtype][0])
    x, y = torch.stack(rows), torch.stack(good)
    assert x.isnan().sum(-1).eq(1).all()
    targets = torch.arange(len(x)) % SIZE
    for top_k in (1, 64):
        stats = position_stats(x, top_k=top_k, targets=targets, backend=backend)
        assert not stats.valid.any()
        assert stats.entropy.isnan().all() and (stats.target_rank == -1).all()
    for pair in (pair_stats(x, y, backend=backend), pair_stats(y, x, backend=backend)):
        assert not pair.valid.any()
        assert all(getattr(pair, name).isnan().all() for name in COMPARISONS)
    assert position_stats(y, backend=backend).valid.all()


@pytest.mark.parametrize("module", ["eager", "cpu.stats"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_target_outside_the_vocabulary_is_none(module, dtype):
    """The front door refuses most of these where it can see them; on a GPU it cannot."""
    run = importlib.import_module(f"ssd_probe.kernels.{module}").position_stats
    targets = torch.tensor([-100, -1, -(2**40), 50, 99, 2**31, 2**62, 7])
    x = torch.randn(8, 50).to(dtype)
    x[:4, 45:] = -torch.inf  # ids of -1 are among the ranks then
    for top_k in (3, 50, 60):
        stats = run(x, top_k, (), targets)
        assert (stats.target_rank[:7] == -1).all() and stats.target_logprob[:7].isnan().all()
        want = x[7].double().log_softmax(-1)
        assert stats.target_logprob[7].item() == pytest.approx(want[7].item(), rel=1e-6)
        assert stats.target_rank[7] == (want > want[7]).sum() + 1


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("top_k", [1, 64])
def test_temperatures_of_every_size(backend, top_k):
    """From the least to those of which float32 has no inverse, on rows that float32 just holds."""
    x = torch.randn(6, 601)
    x[1] *= 1e4
    x[2, 1:] = -torch.inf
    x[3, ::2] = -torch.inf
    x[4] = torch.linspace(-1e4, 1e4, 601)
    x[5] = 3e38 * torch.linspace(-1, 1, 601)
    temperatures = (1e-5, 1e-3, 0.5, 1e20, 1e30, 1e38, 1e39, 1e40, 1e44, 1e46, 1e300)
    if backend == "reference":
        stats = reference.position_stats(x, top_k=top_k, temperatures=temperatures)
    else:
        stats = position_stats(x, top_k=top_k, temperatures=temperatures, backend=backend)
    y = x.double() - x.double().amax(-1, keepdim=True)
    want = torch.stack([(y / t).exp().sum(-1).log() for t in temperatures], -1)
    assert want[:, -1].tolist() == pytest.approx(
        [math.log(n) for n in (601, 601, 1, 300, 601, 601)]
    )
    torch.testing.assert_close(stats.log_partition_at.double(), want, rtol=2e-6, atol=1e-6)


def long_rows(size: int) -> dict[str, torch.Tensor]:
    """Rows whose later chunks change the head wholly, not at all, or are far below it."""
    index, x = torch.arange(size), torch.randn(size)
    late = index >= CHUNK
    rows = {
        "random": 3 * x, "rising": index * 1e-3, "falling": index * -1e-3,
        "equal": torch.zeros(size), "saw": index % 512, "two": index % 2,
        "zeros of both signs": torch.where(index % 3 == 0, 0.0, -0.0),
        "late zeros": torch.where(late, 0.0, -0.0), "late": torch.where(late, x, x - 200),
        "early": torch.where(late, x - 200, x), "late masks": torch.where(late, -torch.inf, x),
        "few": torch.where(index % 9000 == 0, x, -torch.inf),
        "masked": torch.where(index % 2 == 0, x, -6e4), "lock": torch.where(index == 5, 60, x),
        "locks apart": torch.where(index % CHUNK == 5, 80, x), "all in one": x.round() * (x > 3),
        "late ties": torch.where(index % 700 == 3, 5, x.clamp(max=4)),
    }  # fmt: skip
    for value in (torch.nan, torch.inf):
        rows[f"late {value}"] = x.masked_fill(index == size - 1, value)
    return rows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [1, 64, 300])
def test_rows_of_several_chunks(dtype, top_k):
    rows = long_rows(CHUNK + 9001)
    x = torch.stack([row.to(dtype) for row in rows.values()])
    targets = torch.tensor([CHUNK + 8999 - i * (CHUNK // 20) for i in range(len(x))])
    options = {"top_k": top_k, "temperatures": (0.5, 1.6), "targets": targets}
    got = position_stats(x, backend="cpu", **options)
    want = reference.position_stats(x, **options)
    for name in ("valid", "top_ids", "target_rank"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    for name in ("top_logits", "log_partition", "entropy", "varentropy", "tail_log_mass",
                 "log_partition_at", "target_logprob"):  # fmt: skip
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name), rtol=2e-6, atol=1e-6, equal_nan=True
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_pairs_of_logits_that_swallow_a_log_partition(backend):
    x, y = torch.randn(4, 17), torch.randn(4, 17)
    x[0] += 1e30  # 17 equal ones
    x[1] += 1e12
    x[2], y[3] = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max / 2
    got, want = pair_stats(x, y, backend=backend), reference.pair_stats(x, y)
    p, q = x[:1].double().softmax(-1), y[:1].double().softmax(-1)
    assert want.kl_other_base[0].item() == pytest.approx((q * (q / p).log()).sum().item(), rel=1e-9)
    for name in COMPARISONS:
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name), rtol=1e-5, atol=2e-7
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("default", ["float64", "meta"])
def test_torch_defaults_change_nothing(backend, default):
    x, weight, targets = torch.randn(9, 300), torch.randn(300, 9), torch.arange(9) * 30
    x[1, 40:], x[2, 3] = -torch.inf, torch.nan

    def columns() -> list[dict]:
        options = {"targets": targets, "temperatures": (0.7, 1e40), "backend": backend}
        calls = [
            lambda: position_stats(x, **options),
            lambda: position_stats(x.round(), top_k=400, backend=backend),
            lambda: position_stats(x[:0], backend=backend),
            lambda: pair_stats(x, x + x.sin(), **options),
            lambda: lm_head_stats(x[:, :9], weight, bias=x[0], softcap=3.0, **options),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stats = [call() for call in calls]
        ranked = stats[0].truncated([Decoding(1.6, 20, 0.8), Decoding(0.7)])
        return [s.to_columns() for s in stats] + [dict(enumerate(map(Tensor.numpy, ranked)))]

    before = columns()
    try:
        if default == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(torch.float64)
        after = columns()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for old, new in zip(before, after, strict=True):
        for name in old:
            assert old[name].dtype == new[name].dtype, name
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


def test_compiled_code_older_than_a_source_is_dropped(tmp_path):
    """Of all sources in the folder: numba itself looks at the function's own."""
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for name, time in (("a.py", 100), ("b.py", 200), ("old.nbi", 150), ("new.nbi", 250)):
        path = (tmp_path if name.endswith(".py") else cache) / name
        path.touch()
        os.utime(path, (time, time))
    drop_stale(tmp_path)
    assert [path.name for path in cache.iterdir()] == ["new.nbi"]


def test_exponentials_of_decodings_are_right_to_the_last_bits():
    from ssd_probe.kernels.supports import many_decodings

    y = -np.concatenate([np.linspace(0, 708, 20_001), np.logspace(-18, 2, 2_001)])
    ours = np.array([many_decodings._exp(value) for value in y])
    np.testing.assert_allclose(ours, np.exp(y), rtol=4.5e-16, atol=0)
    assert [many_decodings._exp(v) for v in (0.0, -709.0, -np.inf)] == [1.0, 0.0, 0.0]

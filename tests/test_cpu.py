"""What rows of the worst kinds give on CPUs: NaN of every sign and payload, by both backends."""

import itertools

import pytest
import torch

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

"""Every backend against float64 on hard rows, at every size and dtype, and the same bits always.

Triton is tested in its interpreter, which must be chosen before the kernels are imported: a test
runs this file again in a process of its own, there with a third of the long rows in each dtype.
"""

import numpy as np
import pytest
import torch

from ssd_probe.kernels import reference
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats
from tests.interpreter import INTERPRETED, interpret

BACKENDS = ["triton"] if INTERPRETED else ["torch", "cpu"]
SIZES = [1, 17, 507, 32_768, 151_936]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOP_K, TEMPERATURES = 64, (0.7, 1.6)
# |fast - float64| <= max(absolute, relative * |float64|); a tail below 1e-12 counts for nothing
# next to the head, but its logarithm is held to the same.
TOLERANCES = {
    "max_logit": (0, 0), "top_logits": (0, 0), "log_partition": (1e-6, 2e-6),
    "entropy": (1e-6, 2e-6), "varentropy": (1e-6, 2e-6), "log_partition_at": (1e-6, 2e-6),
    "tail_log_mass": (1e-6, 2e-6), "target_logprob": (1e-6, 2e-6),
}  # fmt: skip
EXACT = ("top_ids", "valid", "target_rank")


def hard_rows(size: int) -> dict[str, torch.Tensor]:
    """Rows [size] by name, float32; what float16 cannot hold becomes infinite there."""
    generator = torch.Generator().manual_seed(size)
    x = 3 * torch.randn(size, generator=generator)
    index = torch.arange(size)
    hidden = torch.rand(size, generator=generator)
    hidden[size // 2] = 1
    rows = {
        "random": x, "peaked": 40 * x, "nearly flat": 1e-3 * x, "shifted up": x + 1e4,
        "shifted down": x - 1e4, "scaled": 500 * x,
        "90 % -inf": x.masked_fill(hidden < 0.9, -torch.inf),
        "leading -inf": x.masked_fill(index < size // 2, -torch.inf),
        "one finite": x.masked_fill(index != size // 3, -torch.inf),
        "one-hot": torch.where(index == size // 2, 100.0, 0.0),
        "lock": torch.where(index == size // 2, 0.0, x - 30), "identical": torch.full((size,), 2.5),
        "ties": x.round(), "zeros of both signs": torch.where(index % 2 == 0, 0.0, -0.0),
        "few finite": x.masked_fill(index >= 9, -torch.inf), "rising": index * (20 / size),
        "falling": index * (-20 / size), "least floats": x.masked_fill(index % 3 > 0, -6e4),
        "outlier": torch.where(index == 0, 0.0, -6.0), "cubed": x**3,
    }  # fmt: skip
    for name, value in (("NaN", torch.nan), ("-NaN", -torch.nan), ("+inf", torch.inf)):
        for place in {0, size // 2, size - 1}:
            rows[f"{name} at {place}"] = x.masked_fill(index == place, value)
    rows["all -inf"] = torch.full((size,), -torch.inf)
    return rows


def check(got: PositionStats, want: PositionStats, names: list[str]) -> None:
    for field in EXACT:
        a, b = getattr(got, field), getattr(want, field)
        differs = (a != b).reshape(len(names), -1).any(-1)
        assert not differs.any(), (field, [n for n, d in zip(names, differs, strict=True) if d])
    for field, (absolute, relative) in TOLERANCES.items():
        a, b = getattr(got, field).double(), getattr(want, field)
        assert getattr(got, field).dtype == torch.float32
        error = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
        allowed = (relative * b.abs()).clamp(min=absolute).nan_to_num(posinf=0)
        wrong = ~(error <= allowed).reshape(len(names), -1).all(-1)
        found = [(n, error[i].max().item()) for i, n in enumerate(names) if wrong[i]]
        assert not found, (field, found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_hard_rows(backend, dtype, size):
    rows = hard_rows(size)
    names = list(rows)
    if INTERPRETED and size > 1000:  # each row in one of the dtypes
        names = names[DTYPES.index(dtype) :: 3]
        names.append("NaN at 0")
    logits = torch.stack([rows[name] for name in names]).to(dtype)
    arguments = {
        "top_k": TOP_K, "temperatures": TEMPERATURES,
        "targets": torch.arange(len(names)) * 7919 % size,
    }  # fmt: skip
    want = reference.position_stats(logits, **arguments)
    whole = position_stats(logits, backend=backend, **arguments)
    check(whole, want, names)
    assert want.valid.any() and not want.valid.all()

    # The same bits again, in another order, and one row at a time.
    order = torch.randperm(len(names))[: 3 if size > 1000 or INTERPRETED else None]
    targets = arguments.pop("targets")[order]
    again = position_stats(logits[order], backend=backend, targets=targets, **arguments)
    last = position_stats(logits[order[-1:]], backend=backend, targets=targets[-1:], **arguments)
    for name, values in again.to_columns().items():
        before = torch.from_numpy(whole.to_columns()[name])[order]
        torch.testing.assert_close(torch.from_numpy(values), before, rtol=0, atol=0, equal_nan=True)
        alone = torch.from_numpy(last.to_columns()[name])
        torch.testing.assert_close(alone, before[-1:], rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(INTERPRETED, reason="is what runs this")
@pytest.mark.parametrize(
    "rows",
    [
        "not (32768 or 151936)",
        pytest.param("32768 or 151936", marks=pytest.mark.slow(reason="long rows, interpreted")),
    ],
)
def test_triton_in_its_interpreter(rows):
    interpret(__file__, "-k", rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_beyond_2_to_the_31(backend):
    """Two rows that lie further apart than int32 can say; what is between is never touched."""
    far = 2**31 + 128
    memory = np.zeros(far + 1000, np.int16)  # no pages until written
    memory = torch.from_numpy(memory).view(torch.bfloat16)
    rows = memory.as_strided((2, 1000), (far, 1))
    rows[0], rows[1] = torch.randn(1000), 5 * torch.randn(1000)
    stats = position_stats(rows, backend=backend)
    want = reference.position_stats(rows)
    assert torch.equal(stats.top_ids, want.top_ids)
    torch.testing.assert_close(stats.entropy.double(), want.entropy, rtol=2e-6, atol=1e-6)

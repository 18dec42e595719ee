"""Every backend against the oracle on the whole corpus, at every size and dtype, and the same bits.

Triton is tested in its interpreter, which must be chosen before the kernels are imported: a test
runs this file again in a process of its own, there with each row in one of the dtypes.
"""

import functools

import numpy as np
import pytest
import torch

from ssd_probe.kernels import reference
from ssd_probe.kernels.fields import SCALARS
from ssd_probe.kernels.stats import position_stats
from tests import interpreter, oracle
from tests.interpreter import INTERPRETED, interpret
from tests.rows import DTYPES, RECIPES, Row, buildable

BACKENDS = interpreter.backends()
CASES = [(1, 1), (17, 100), (507, 1), (507, 128), (5003, 16), (5003, 64), (32_768, 64),
         (151_936, 64)]  # V, K  # fmt: skip
TEMPERATURES = (1e-5, 0.7, 1.6, 1e30)


def share(size: int, dtype: torch.dtype) -> list[Row]:
    """All rows; of those that take long each in one of the dtypes, and one that is not valid."""
    rows = [row for row in RECIPES if buildable(row, dtype)]
    every = 24 if size > 100_000 else 6 if INTERPRETED and size > 1000 else 3
    if size <= 32_768 and not INTERPRETED:
        return rows
    return [*rows[DTYPES.index(dtype) :: every], Row(bad="-NaN")]


@functools.cache
def case(size: int, top_k: int, dtype: torch.dtype) -> tuple[torch.Tensor, dict, oracle.Truth]:
    """Logits, arguments and what is right; a target is anywhere, the best, none, or the last."""
    logits = torch.stack([row.build(size, dtype) for row in share(size, dtype)])
    logits = logits.to(interpreter.DEVICE)
    targets = torch.arange(len(logits), device=logits.device) * 7919 % size
    targets[1::4] = logits[1::4].float().argmax(-1)
    targets[2::4] = -100
    targets[3::4] = size - 1
    arguments = {"top_k": top_k, "temperatures": TEMPERATURES, "targets": targets}
    return logits, arguments, oracle.position_stats(logits, **arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "top_k"), CASES)
def test_corpus(backend, dtype, size, top_k):
    logits, arguments, want = case(size, top_k, dtype)
    whole = position_stats(logits, backend=backend, **arguments)
    differences = oracle.differences(whole, want, share(size, dtype))
    assert not differences, "\n".join(differences)
    assert want["valid"].any() and not want["valid"].all()
    for name in (*SCALARS, "top_logits", "log_partition_at", "target_logprob"):
        assert getattr(whole, name).dtype == torch.float32, name

    # The same bits again, in another order, and one row at a time.
    order = torch.randperm(len(logits))[: 3 if size > 1000 or INTERPRETED else None]
    some, one = (arguments | {"targets": arguments["targets"][i]} for i in (order, order[-1:]))
    again = position_stats(logits[order], backend=backend, **some)
    last = position_stats(logits[order[-1:]], backend=backend, **one)
    for name, values in again.to_columns().items():
        before = torch.from_numpy(whole.to_columns()[name])[order.cpu()]
        torch.testing.assert_close(torch.from_numpy(values), before, rtol=0, atol=0, equal_nan=True)
        alone = torch.from_numpy(last.to_columns()[name])
        torch.testing.assert_close(alone, before[-1:], rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(INTERPRETED, reason="is what runs this")
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(
            "not (32768 or 151936)", marks=pytest.mark.slow(reason="all rows, interpreted: minutes")
        ),
        pytest.param("32768 or 151936", marks=pytest.mark.long(reason="long rows, interpreted")),
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

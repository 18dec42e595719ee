"""What the entry points of the kernels take: any leading shape, targets that are none, any caller's
defaults of torch; and what they never do: detach in silence, or wait for a device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_probe.errors import UserError
from ssd_probe.kernels import stats as stats_module
from ssd_probe.kernels.head import lm_head_stats
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.stats import position_stats
from tests.interpreter import INTERPRETED, interpret

BACKENDS = ["triton"] if INTERPRETED else ["torch", "cpu"]


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
def test_triton_in_its_interpreter():
    interpret(__file__)


def equal(a, b, rows=slice(None)):
    for name, value in a._by_row().items():
        torch.testing.assert_close(
            value[rows], getattr(b, name)[rows], rtol=0, atol=0, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_leading_shape(backend):
    x = 3 * torch.randn(2, 5, 600)
    targets = torch.randint(500, (2, 5))
    arguments = {"temperatures": (0.7,), "top_k": 8, "vocab_size": 500, "backend": backend}
    want = position_stats(x.reshape(10, 600), targets=targets.reshape(10), **arguments)
    equal(position_stats(x, targets=targets, **arguments), want)
    equal(position_stats(x[:, None], targets=targets[:, None], **arguments), want)
    one = position_stats(x[1, 2], targets=targets[1, 2], **arguments)
    equal(one, want.rows(slice(7, 8)))
    # Shifted against the targets, as everyone does: not one matrix in memory.
    shifted = position_stats(x[:, :-1], targets=targets[:, 1:], **arguments)
    assert torch.equal(shifted.entropy, want.entropy.view(2, 5)[:, :-1].reshape(-1))
    assert len(position_stats(x[:0], targets=targets[:0], **arguments)) == 0
    assert len(position_stats(x[:, :0], targets=targets[:, :0], **arguments)) == 0

    pair = pair_stats(x, x.flip(0), targets=targets, **arguments)
    flat = pair_stats(x.view(10, 600), x.flip(0).view(10, 600), **arguments)
    assert torch.equal(pair.js, flat.js) and torch.equal(pair.base.entropy, want.entropy)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_a_row_without_a_target(backend, dtype):
    x = torch.randn(4, 300)
    targets = torch.tensor([3, 255, 0, 7]).to(dtype)
    want = position_stats(x, targets=targets, top_k=4, backend=backend)
    if dtype == torch.uint8:
        return
    targets[1] = -100
    got = position_stats(x, targets=targets, top_k=4, backend=backend)
    assert got.target_rank[1] == -1 and got.target_logprob[1].isnan()
    equal(got, want, torch.tensor([0, 2, 3]))
    short = position_stats(x[:, :2], targets=torch.full((4,), -100), top_k=4, backend=backend)
    assert (short.target_rank == -1).all() and short.target_logprob.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outside", [-1, -7, 300, 2**40, -(2**40)])
def test_an_id_that_only_the_device_can_see(backend, outside, monkeypatch):
    """It counts as none: nothing is read outside a row, and nobody waits."""
    x, targets = torch.randn(2, 300), torch.tensor([5, outside])
    with pytest.raises(UserError, match=r"ids in 0\.\.299"):
        position_stats(x, targets=targets, backend=backend)
    monkeypatch.setattr(stats_module, "_seen_by_host", lambda tensor: False)
    got = position_stats(x, targets=targets, backend=backend)
    assert got.target_rank[1] == -1 and got.target_logprob[1].isnan()
    equal(got, position_stats(x, targets=torch.tensor([5, -100]), backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callers_defaults_change_nothing(backend):
    x, y = torch.randn(3, 300), torch.randn(3, 300)
    hidden, weight = torch.randn(3, 16), torch.randn(300, 16)
    targets = torch.tensor([1, 299, -100])
    arguments = {"targets": targets, "temperatures": (0.7,), "top_k": 8, "backend": backend}

    def results():
        head = lm_head_stats(hidden, weight, bias=weight[:, 0], softcap=5.0, **arguments)
        return position_stats(x, **arguments), head, pair_stats(x, y, **arguments)

    want = results()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            got = results()
    finally:
        torch.set_default_dtype(torch.float32)
    equal(got[0], want[0])
    equal(got[1], want[1])
    assert torch.equal(got[2].js, want[2].js)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_is_refused_and_not_dropped(backend):
    x, weight = torch.randn(2, 30, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    for call in (
        lambda: position_stats(x, backend=backend),
        lambda: pair_stats(x.detach(), x, backend=backend),
        lambda: lm_head_stats(torch.randn(2, 4), weight, backend=backend),
        lambda: lm_head_stats(weight[:2], weight.detach(), backend=backend),
    ):
        with pytest.raises(UserError, match=r"no_grad"):
            call()
        with torch.no_grad():
            call()
        with torch.inference_mode():
            call()


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a value, or a shape that hangs on one.

    (The interpreter's own copies do not come through here.)
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        indexed_by_mask = name in ("index", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1] or ()
        )
        assert name not in self.WAITS and not indexed_by_mask, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(not INTERPRETED, reason="on the CPU there is nobody to wait for")
def test_the_host_does_not_wait_for_a_gpu(monkeypatch):
    monkeypatch.setattr(stats_module, "_seen_by_host", lambda tensor: False)
    x, y, targets = torch.randn(3, 300), torch.randn(3, 300), torch.tensor([1, 299, -100])
    hidden, weight = torch.randn(3, 16), torch.randn(300, 16)
    arguments = {"targets": targets, "temperatures": (0.7,), "top_k": 8, "backend": "triton"}
    with NoWaiting():
        position_stats(x, **arguments)
        pair_stats(x, y, **arguments)
        lm_head_stats(hidden, weight, **arguments)
        with pytest.raises(AssertionError, match="waits"):
            (x > 0).nonzero()

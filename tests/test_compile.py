"""`position_stats` within `torch.compile`: one operator, no break in the graph, the same bits."""

import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.kernels.op import FIELDS
from ssd_probe.kernels.stats import position_stats


def entropies(x, targets):
    stats = position_stats(2 * x, top_k=8, temperatures=(0.7,), targets=targets, vocab_size=290)
    return [getattr(stats, name) + 0 for name in FIELDS]


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_compiled_it_is_the_same(leading):
    x, targets = torch.randn(*leading, 300), torch.randint(290, leading)
    targets[0] = -100
    compiled = torch.compile(entropies, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(x, targets), entropies(x, targets), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("targets", [None, torch.tensor([3, 32, 0])])  # it knows no NaN
def test_the_operator_keeps_its_word(backend, targets):
    op = torch.ops.ssd_probe.position_stats.default
    torch.library.opcheck(op, (torch.randn(3, 40), 8, [0.7, 2.0], targets, None, backend))
    torch.library.opcheck(op, (torch.randn(3, 40), 64, [], targets, 33, backend))


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_is_refused_there_too():
    def loss(x):
        return position_stats(x).entropy.sum()

    x = torch.randn(2, 30, requires_grad=True)
    with pytest.raises((UserError, torch._dynamo.exc.TorchDynamoException), match="no_grad"):
        torch.compile(loss, fullgraph=True, backend="aot_eager")(x)
    op = torch.ops.ssd_probe.position_stats.default
    with pytest.raises(RuntimeError, match="autograd"):
        op(x, 8, [], None, None, "cpu")[2].sum().backward()

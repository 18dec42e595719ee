"""The rules of other samplers, token by token against transformers; and what the ranks say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats
from ssd_probe.kernels.supports.rules import (
    AtLeast,
    Eta,
    MinP,
    Nucleus,
    TopNSigma,
    Typical,
    by_logits,
    by_ranks,
)

WARPERS = [
    (AtLeast(0.003), theirs.EpsilonLogitsWarper(0.003)),
    (MinP(0.05), theirs.MinPLogitsWarper(0.05)),
    (Eta(0.01), theirs.EtaLogitsWarper(0.01)),
    (Typical(0.8), theirs.TypicalLogitsWarper(0.8)),
    (Typical(1.0 - 1e-9), theirs.TypicalLogitsWarper(1.0 - 1e-9)),
]
RULES = [*(rule for rule, _ in WARPERS), TopNSigma(1.5), Nucleus(0.8), Nucleus(0.999), AtLeast(1.0)]


def rows(scale, digits, masked, size=300, count=6):
    x = (scale * torch.randn(count, size, dtype=torch.float64)).round(decimals=digits)
    x[:, : int(masked * (size - 1))] = -torch.inf
    return x.float()


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0, 20), digits=st.sampled_from([0, 6]), masked=st.floats(0, 1),
       seed=st.integers(0, 2**31))  # fmt: skip
def test_as_transformers(scale, digits, masked, seed):
    torch.manual_seed(seed)
    x = rows(scale, digits, masked)
    kept = by_logits(x, [rule for rule, _ in WARPERS])
    for column, (_, warper) in enumerate(WARPERS):
        # In float64, or theirs rounds apart what is equal, and the cumulative mass too.
        survivors = warper(None, x.double()) > -torch.inf
        edge = _at_the_edge(x.double(), warper)
        sizes = survivors.sum(-1)
        assert ((kept.size[:, column] == sizes) | edge).all()
        mass = (x.double().softmax(-1) * survivors).sum(-1)
        torch.testing.assert_close(kept.mass[:, column][~edge], mass[~edge], rtol=1e-9, atol=1e-12)


def _at_the_edge(x, warper):
    """Rows that a rounding of the threshold would change."""
    if isinstance(warper, theirs.TypicalLogitsWarper):
        changed = [theirs.TypicalLogitsWarper(warper.mass * s) for s in (1 - 1e-12, 1 + 1e-12)]
    elif isinstance(warper, theirs.MinPLogitsWarper):
        changed = [theirs.MinPLogitsWarper(warper.min_p * s) for s in (1 - 1e-12, 1 + 1e-12)]
    else:
        changed = [type(warper)(float(warper.epsilon) * s) for s in (1 - 1e-12, 1 + 1e-12)]
    low, high = ((w(None, x) > -torch.inf).sum(-1) for w in changed)
    return low != high


def test_the_nucleus_is_the_decodings_however_large():
    x = rows(0.5, 6, 0.0, size=5000)
    for top_p in (0.1, 0.8, 0.999, 1.0):
        want = (Decoding(1.0, 0, top_p).warp(x) > -torch.inf).sum(-1)
        assert torch.equal(by_logits(x, [Nucleus(top_p)]).size[:, 0], want)
        assert top_p < 0.5 or (want > 1000).all()


def test_sigma_leaves_masked_logits_out():
    x = rows(2.0, 6, 0.5)
    want = x.double().amax(-1) - 1.5 * x[:, 149:].double().std(-1)
    size = (x.double() >= want[:, None]).sum(-1)
    assert torch.equal(by_logits(x, [TopNSigma(1.5)]).size[:, 0], size) and (size > 1).all()
    one = torch.full((1, 9), -torch.inf)
    one[0, 4] = 2.0
    assert by_logits(one, RULES).size.tolist() == [[1] * len(RULES)]


@pytest.mark.parametrize("top_k", [1, 8, 64, 300, 400])
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0, 12.0])
def test_the_ranks_say_what_they_know(top_k, scale):
    x = rows(scale, 2, 0.2, count=40)
    truth = by_logits(x, RULES)
    found = by_ranks(position_stats(x, top_k=top_k), RULES)
    assert torch.equal(found.size[found.exact], truth.size[found.exact])
    torch.testing.assert_close(
        found.mass[found.exact], truth.mass[found.exact], rtol=2e-6, atol=1e-6
    )
    thresholds = [i for i, rule in enumerate(RULES) if not isinstance(rule, Typical | TopNSigma)]
    assert (found.size <= truth.size)[:, thresholds].all()
    assert found.exact.all() if top_k >= 300 else not found.exact[:, 3].any()
    if scale == 12.0 and top_k == 64:
        assert found.exact[:, :3].all()


def test_rows_that_are_not_valid_and_none():
    x = torch.zeros(3, 40)
    x[0, 3], x[1, 3], x[2] = torch.nan, torch.inf, -torch.inf
    for kept in (by_logits(x, RULES), by_ranks(position_stats(x), RULES)):
        assert (kept.size == 0).all() and kept.mass.isnan().all() and not kept.exact.any()
    assert by_logits(x[:0], RULES).size.shape == (0, len(RULES))
    assert by_logits(x[None, :, None], RULES).size.shape == (3, len(RULES))


@pytest.mark.parametrize("rule", [
    lambda: MinP(0), lambda: Nucleus(1.1), lambda: AtLeast(-1), lambda: Eta(float("nan")),
    lambda: TopNSigma(float("inf")),
])  # fmt: skip
def test_values_out_of_range_are_refused(rule):
    with pytest.raises(UserError, match=r"must be a number in \(0, "):
        rule()


def test_a_nucleus_that_ends_within_rounding_is_not_called_exact():
    """Two tokens of 0.4 and a tail: top-p 0.8 ends at rank 2 or 3 by the last bit of the fields."""
    p = torch.cat([torch.tensor([0.4, 0.4 + 3e-8]), torch.full((998,), 0.2 / 998)])
    for top_p, exact in ((0.8, False), (0.6, True)):
        found = by_ranks(position_stats(p.log()[None], top_k=8), [Nucleus(top_p)])
        assert found.exact.item() is exact

"""`pair_stats` against the oracle, and what must hold of any two distributions."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_probe.errors import UserError
from ssd_probe.kernels import pair
from ssd_probe.kernels.backends import measure
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import COMPARISONS, PairStats
from ssd_probe.kernels.stats import position_stats
from tests import oracle
from tests.interpreter import DEVICE, INTERPRETED, backends, interpret
from tests.rows import RECIPES

BACKENDS = backends()
EXAMPLES = 6 if INTERPRETED else 60
CHANGES = (1e-6, 9e-4, 3.0) if INTERPRETED else (1e-6, 1e-4, 9e-4, 0.1, 3.0)
INF = math.inf


@pytest.fixture(autouse=True)
def _only_the_comparison(monkeypatch):
    """Interpreted, `position_stats` is slow and has tests of its own."""
    if INTERPRETED:
        monkeypatch.setattr(pair, "measure", lambda *arguments: measure(*arguments[:-1], "torch"))


@pytest.mark.skipif(INTERPRETED, reason="this is the child")
def test_triton_in_its_interpreter():
    """The tests of this file with Triton, whose interpreter is chosen before the import."""
    interpret(__file__)


def check(base, other, backend, **arguments) -> PairStats:
    """Against the oracle."""
    stats = pair_stats(base, other, backend=backend, **arguments)
    differences = oracle.differences(stats, oracle.pair_stats(base, other, **arguments))
    assert not differences, "\n".join(differences)
    for name in (*COMPARISONS, "other_at_base_top"):
        assert getattr(stats, name).dtype == torch.float32, name
    return stats


def pairs(rows, size, scale, change, shift=0.0, generator=None):
    x = scale * torch.randn(rows, size, generator=generator)
    return x, x + shift + change * torch.randn(rows, size, generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", [*CHANGES, None])
@pytest.mark.parametrize("size", [1, 17, 507, 5003])
def test_corpus(backend, size, change):
    """Each row with a changed one, from a KL of 1e-12 to many nats, or with another row."""
    rows = RECIPES[size % 7 :: 48 if INTERPRETED else 12 if size > 1000 else 1]
    x = torch.stack([row.build(size) for row in rows])
    changed = (row if change is None else replace(row, noise=change) for row in rows)
    y = torch.stack([row.build(size) for row in changed])
    y = y.roll(1, 0) if change is None else y
    check(x.to(DEVICE), y.to(DEVICE), backend, top_k=8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_row(backend):
    x, y = pairs(1, 151_936, 2.0, 9e-4, 10.0)
    check(x, y, backend, top_k=8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("left", "right"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16),
     (torch.bfloat16, torch.float32), (torch.float32, torch.float16)],
)  # fmt: skip
def test_dtypes_mix(backend, left, right):
    for shift, change in ((0.0, 1e-3), (10.0, 0.05), (0.0, 2.0)):
        x, y = pairs(6, 507, 3.0, change, shift)
        check(x.to(left), y.to(right), backend)
    x = torch.randn(4, 507).to(left)
    same = pair_stats(x, x.to(left), backend=backend)
    assert all((getattr(same, name) == 0).all() for name in COMPARISONS)
    if torch.float32 in (left, right):  # the same numbers in two dtypes
        narrow = x.to(left if left != torch.float32 else right)
        check(narrow, narrow.float(), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_identical_rows_give_exactly_zero(backend):
    x = torch.cat([5 * torch.randn(20, 507), torch.zeros(1, 507), torch.full((1, 507), -INF)])
    x[:5, ::3] = -INF
    x[-1, 7] = 2.0
    stats = check(x, x.clone(), backend)
    for name in COMPARISONS:
        assert (getattr(stats, name) == 0).all(), name
    moved = pair_stats(x[5:20], x[5:20] + 8, backend=backend)  # a shift is not a change
    assert moved.js.max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("left", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("right", [torch.float32, torch.bfloat16, torch.float16])
def test_a_logit_beside_which_the_others_have_no_digits(backend, left, right):
    """A difference y - x that swallows one of them, at a token that has the mass."""
    best = torch.tensor([50.0, 300.0, 2e4, 6e4, 2e9, 1.7e28, -2e9, -1.7e28])
    x = torch.stack([torch.tensor([b, b, b - 3, -0.1, 1e-3, -b.abs()]) for b in best])
    y = torch.tensor([0.1, -1e-4, 2.3, 1.7, -0.88, 1e-6])
    x = x.clamp(torch.finfo(left).min, torch.finfo(left).max).to(left)
    y = (y + 1e-3 * torch.randn(len(x), len(y))).to(right)
    check(x, y, backend, top_k=2)
    check(y, x, backend, top_k=2)
    check(x, (x.float() * (1 + 2**-8)).to(x.dtype), backend, top_k=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_that_one_side_lacks(backend):
    rows = [  # base, other, KL(p||q), KL(q||p), JS, TV
        ([0.0, -INF, -INF], [-INF, 0.0, -INF], INF, INF, math.log(2), 1),
        ([0.0, 0.0, -INF], [0.0, -INF, -INF], INF, math.log(2), 0.215761, 0.5),
        ([3.0, -INF, -INF], [0.0, 0.0, -INF], math.log(2), INF, 0.215761, 0.5),
        ([0.0, 0.0, -1e4], [0.0, 0.0, -INF], INF, 0, 0, 0),  # p = 0 to float64, but not -inf
        ([0.0, 0.0, -INF], [0.0, 0.0, -1e4], 0, INF, 0, 0),
        ([0.0, -1e4, -INF], [-1e4, 0.0, -INF], 1e4, 1e4, math.log(2), 1),
    ]
    base, other = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    stats = check(base, other, backend, top_k=2)
    for name, column in zip(COMPARISONS, zip(*[r[2:] for r in rows], strict=True), strict=True):
        torch.testing.assert_close(getattr(stats, name), torch.tensor(column, dtype=torch.float32))
    assert stats.other_at_base_top[:4].tolist() == [
        [-INF, -INF], [0.0, -INF], [0.0, -INF], [0.0, 0.0]]  # fmt: skip
    wide = torch.randn(8, 507)
    left, right = wide.clone(), wide + 0.1 * torch.randn(8, 507)
    left[:4, ::2], right[2:6, ::4] = -INF, -INF
    check(left, right, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_not_valid(backend):
    x, y = pairs(7, 40, 2.0, 0.5)
    alone = pair_stats(x, y, top_k=4, backend=backend)
    bad_x, bad_y = x.clone(), y.clone()
    bad_x[1, 3], bad_y[2, 5], bad_x[3], bad_y[3, 0], bad_x[4, 9] = math.nan, INF, -INF, INF, INF
    stats = check(bad_x, bad_y, backend, top_k=4)
    assert stats.valid.tolist() == [True, False, False, False, False, True, True]
    for name in (*COMPARISONS, "other_at_base_top"):
        assert getattr(stats, name)[~stats.valid].isnan().all(), name
    for name in COMPARISONS:  # and the neighbours do not notice
        assert torch.equal(getattr(stats, name)[stats.valid], getattr(alone, name)[stats.valid])


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_and_order_do_not_show(backend):
    wide, other = pairs(9, 600, 3.0, 0.3)
    wide[:, 507:] = math.nan  # padding columns may hold anything
    stats = check(wide, other, backend, vocab_size=507)

    def same(found: PairStats, rows=slice(None)):
        for name in (*COMPARISONS, "other_at_base_top"):
            assert torch.equal(getattr(found, name), getattr(stats, name)[rows]), name

    same(pair_stats(wide[:, :507].contiguous(), other[:, :507].contiguous(), backend=backend))
    columns, interleaved = wide.T.contiguous().T, torch.stack([other, wide], 1)[:, 0]
    same(pair_stats(columns, interleaved, vocab_size=507, backend=backend))
    order = torch.tensor([8, 0, 3])
    same(pair_stats(wide[order], other[order], vocab_size=507, backend=backend), order)
    same(pair_stats(wide[4:5], other[4:5], vocab_size=507, backend=backend), slice(4, 5))
    empty = pair_stats(wide[:0], other[:0], top_k=5, backend=backend)
    assert len(empty) == 0 and empty.js.shape == (0,) and empty.other_at_base_top.shape == (0, 5)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    size=st.integers(1, 60), scale=st.floats(0, 30), seed=st.integers(0, 2**31),
    change=st.sampled_from([0.0, 1e-5, 1e-2, 1.0, 20.0]), masked=st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_properties(backend, size, scale, seed, change, masked):
    generator = torch.Generator().manual_seed(seed)
    x, y = pairs(5, size, scale, change, generator=generator)
    x[torch.rand(5, size, generator=generator) < masked] = -INF
    y[torch.rand(5, size, generator=generator) < masked / 2] = -INF
    x[:, 0] = y[:, 0] = 0.0
    stats = check(x, y, backend, top_k=3)
    assert stats.valid.all()
    for kl in (stats.kl_base_other, stats.kl_other_base):
        assert (kl >= 0).all()
        assert (stats.tv**2 <= kl / 2 * (1 + 1e-5) + 1e-12).all()  # Pinsker
    assert (stats.js >= 0).all() and (stats.js <= torch.tensor(math.log(2))).all()
    assert (stats.tv >= 0).all() and (stats.tv <= 1).all()
    assert (stats.js <= stats.tv * math.log(2) * (1 + 1e-5) + 1e-7).all()
    swapped = pair_stats(y, x, top_k=3, backend=backend)
    torch.testing.assert_close(swapped.js, stats.js, atol=1e-20, rtol=2e-5)
    torch.testing.assert_close(swapped.tv, stats.tv, atol=4e-7, rtol=2e-5)
    torch.testing.assert_close(swapped.kl_base_other, stats.kl_other_base, atol=1e-20, rtol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_each_side_and_columns(backend):
    x, y = pairs(9, 40, 2.0, 0.5)
    targets = torch.arange(9)
    arguments = {"top_k": 4, "temperatures": (0.7,), "targets": targets}
    stats = pair_stats(x, y, backend=backend, **arguments)
    own = position_stats(y, **arguments, backend="torch" if INTERPRETED else backend)
    assert torch.equal(stats.other.entropy, own.entropy)
    assert torch.equal(stats.other.target_rank, own.target_rank)
    assert torch.equal(stats.other_at_base_top, y.gather(1, stats.base.top_ids.long()))
    columns = stats.to_columns()
    assert {len(column) for column in columns.values()} == {9}
    assert {"js", "tv", "kl_base_other", "base_entropy", "other_top_ids",
            "other_log_partition_at_0.7"} <= set(columns)  # fmt: skip


@pytest.mark.parametrize("bad", [
    {"other_logits": torch.zeros(2, 4)}, {"other_logits": torch.zeros(3, 3)},
    {"other_logits": torch.zeros(2, 3, dtype=torch.float64)}, {"top_k": 0}, {"vocab_size": 9},
    {"backend": "numpy"}, {"targets": torch.tensor([0, 7])},
], ids=str)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(bad):
    arguments = {"base_logits": torch.zeros(2, 3), "other_logits": torch.zeros(2, 3), **bad}
    with pytest.raises(UserError, match="^[^\n]+$"):
        pair_stats(**arguments)

"""The properties of `position_stats`, and the support that it implies."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels import eager, reference
from ssd_probe.kernels.fields import RANKED, REQUIRED, SCALARS
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats
from tests import oracle

TEMPERATURES = (0.5, 1.6)
BACKENDS = ["torch", "cpu"]


def check(logits, *, top_k=8, backend="torch", vocab_size=None) -> PositionStats:
    """Against the oracle; rows of every kind are in test_accuracy.py."""
    targets = torch.randint(vocab_size or logits.shape[1], (len(logits),))
    arguments = {
        "top_k": top_k, "temperatures": TEMPERATURES, "targets": targets, "vocab_size": vocab_size,
    }  # fmt: skip
    stats = position_stats(logits, backend=backend, **arguments)
    assert not oracle.differences(stats, oracle.position_stats(logits, **arguments))
    return stats


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40), top_k=st.integers(1, 45), scale=st.floats(0, 50),
    seed=st.integers(0, 2**31), digits=st.sampled_from([0, 1, 6]), masked=st.floats(0, 1),
)  # fmt: skip
def test_properties(backend, size, top_k, scale, seed, digits, masked):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(6, size, generator=generator)).round(decimals=digits)
    logits[torch.rand(6, size, generator=generator) < masked] = -torch.inf
    logits[:, seed % size] = 0.0  # at least one is finite
    stats = check(logits, top_k=top_k, backend=backend)

    assert stats.valid.all()
    assert (stats.entropy >= 0).all() and (stats.entropy <= math.log(size) + 1e-6).all()
    assert (stats.varentropy >= 0).all()
    whole = stats.top_mass(top_k) + stats.tail_log_mass.double().exp()
    torch.testing.assert_close(whole, torch.ones_like(whole), atol=2e-6, rtol=0)
    assert (stats.tail_probability(0) - 1).abs().max() < 2e-6
    keys = list(zip((-stats.top_logits).tolist(), stats.top_ids.tolist(), strict=True))
    for values, ids in keys:
        pairs = [(v, i) for v, i in zip(values, ids, strict=True) if i >= 0]
        assert pairs == sorted(pairs) and all(i == -1 for i in ids[len(pairs) :])

    shifted = position_stats(logits + 8, top_k=top_k, backend=backend)
    torch.testing.assert_close(shifted.entropy, stats.entropy, atol=1e-4, rtol=1e-4)
    assert torch.equal(shifted.max_logit, (logits + 8).amax(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_distributions(backend):
    uniform = position_stats(torch.full((1, 1000), 3.25), top_k=64, backend=backend)
    assert uniform.entropy.item() == pytest.approx(math.log(1000), rel=1e-6)
    assert uniform.varentropy.item() == pytest.approx(0, abs=1e-6)
    assert uniform.top_ids[0].tolist() == list(range(64))
    assert uniform.tail_probability(64).item() == pytest.approx(0.936, rel=1e-6)

    one_hot = torch.full((1, 1000), -torch.inf)
    one_hot[0, 17] = -5.0
    stats = position_stats(one_hot, top_k=3, backend=backend)
    assert (stats.entropy.item(), stats.log_partition.item(), stats.top_mass(1).item()) == (0, 0, 1)
    assert stats.tail_log_mass.item() == -math.inf
    assert stats.top_ids.tolist() == [[17, -1, -1]]
    assert stats.logsumexp.item() == -5.0

    # dH/dT at T = 1 is the varentropy.
    logits = torch.randn(1, 50)
    slope = [reference.position_stats(logits.double() / t).entropy for t in (1.001, 0.999)]
    varentropy = position_stats(logits, backend=backend).varentropy
    assert (slope[0] - slope[1]).item() / 0.002 == pytest.approx(varentropy.item(), rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tails_down_to_1e_30_keep_their_digits(backend):
    size = 5000
    for exponent in (3, 10, 30, 60):
        logits = torch.full((1, size), -exponent * math.log(10))
        logits[0, 42] = 0.0
        stats = position_stats(logits, top_k=4, backend=backend)
        tail = math.exp(logits[0, 0].double().item())
        lost = 1 + (size - 1) * tail
        assert stats.tail_probability(4).item() == pytest.approx((size - 4) * tail / lost, rel=1e-5)
        assert stats.tail_probability(1).item() == pytest.approx((size - 1) * tail / lost, rel=1e-5)
        if exponent in (10, 30):  # a lock: each rare token gives p log(1/p), the first gives p
            expected = (size - 1) * tail * (exponent * math.log(10) + 1)
            assert stats.entropy.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_of_the_input(backend):
    wide = 3 * torch.randn(20, 600)
    wide[:, 507:] = torch.nan  # padding columns may hold anything
    padded = check(wide, vocab_size=507, backend=backend)
    same(padded, position_stats(wide[:, :507].contiguous(), top_k=8, temperatures=TEMPERATURES,
                                backend=backend))  # fmt: skip
    transposed = wide.T.contiguous().T
    assert not transposed.is_contiguous()
    same(padded, position_stats(transposed, top_k=8, temperatures=TEMPERATURES, vocab_size=507,
                                backend=backend))  # fmt: skip
    strided = torch.stack([wide, wide], 1)[:, 1]
    same(padded, position_stats(strided, top_k=8, temperatures=TEMPERATURES, vocab_size=507,
                                backend=backend))  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    stats = position_stats(
        torch.empty(0, 7), top_k=9, temperatures=(2.0,), targets=torch.empty(0, dtype=torch.long),
        backend=backend,
    )  # fmt: skip
    assert len(stats) == 0 and stats.top_ids.shape == (0, 9)
    assert stats.log_partition_at.shape == (0, 1)
    assert stats.target_rank is not None and stats.target_rank.shape == (0,)
    assert stats.branching(Decoding(0.7, 5, 0.9)).shape == (0,)
    assert len(PositionStats.from_columns(stats.to_columns())) == 0


def test_chunks_do_not_show(monkeypatch):
    logits = (3 * torch.randn(33, 101)).bfloat16()
    targets = torch.randint(101, (33,))
    whole = position_stats(logits, temperatures=(2.0,), targets=targets, backend="torch")
    monkeypatch.setattr(eager, "CHUNK_ELEMENTS", 500)
    same(whole, position_stats(logits, temperatures=(2.0,), targets=targets, backend="torch"))


def same(a: PositionStats, b: PositionStats) -> None:
    """Equal fields; targets only where both have them."""
    for field in dataclasses.fields(PositionStats):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
            assert torch.equal(left.nan_to_num(123), right.nan_to_num(123)), field.name


@pytest.mark.parametrize("bad", [
    {"logits": torch.tensor(3.0)}, {"logits": torch.zeros(2, 0)}, {"logits": [[0.0, 1.0]]},
    {"logits": torch.zeros(2, 3, dtype=torch.float64)}, {"top_k": 0}, {"temperatures": (0.0,)},
    {"temperatures": (math.nan,)}, {"vocab_size": 0}, {"vocab_size": 4}, {"backend": "cuda"},
    {"targets": torch.tensor([0])}, {"targets": torch.tensor([0, 3])},
    {"targets": torch.tensor([0, -1])}, {"targets": torch.tensor([0, 2]), "vocab_size": 2},
    {"targets": [0, 1]}, {"targets": torch.tensor([True, False])}, {"targets": torch.zeros(2)},
    {"targets": torch.zeros(1, 2, dtype=torch.long)}, {"top_k": 2.0}, {"top_k": True},
    {"temperatures": 1.6}, {"temperatures": "1.6"}, {"temperatures": (None,)},
    {"vocab_size": 2.0}, {"logits": torch.zeros(2, 3, requires_grad=True)},
], ids=str)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(bad):
    arguments = {"logits": torch.zeros(2, 3), **bad}
    with pytest.raises(UserError, match="^[^\n]+$"):
        position_stats(**arguments)


# --- The support a decoding implies, against Decoding.warp on the full logits ---------------------


def expected_support(logits, decoding, stats):
    """Mask over the ranks, size, entropy and kept mass from the whole vocabulary, float64."""
    kept = decoding.warp(logits) > -torch.inf
    tempered = logits.double() / max(decoding.temperature, 1e-5)  # warp rounds these to float32
    log_q = tempered.masked_fill(~kept, -torch.inf).log_softmax(-1)
    entropy = -(log_q.exp() * log_q.where(kept, 0)).sum(-1)
    mass = logits.double().softmax(-1).where(kept, 0).sum(-1)
    ranks = kept.gather(-1, stats.top_ids.clamp(min=0).long()) & (stats.top_ids >= 0)
    return ranks, kept.sum(-1), entropy, mass


def check_support(logits, decoding, stats):
    ranks, size, entropy, mass = expected_support(logits, decoding, stats)
    exact = stats.support_exact(decoding)
    assert torch.equal(stats.support(decoding)[exact], ranks[exact])
    assert torch.equal(stats.support_size(decoding)[exact], size[exact])
    got = stats.support_entropy(decoding)[exact]
    torch.testing.assert_close(got, entropy[exact], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stats.branching(decoding)[exact], got.exp())
    torch.testing.assert_close(stats.kept_mass(decoding)[exact], mass[exact], atol=2e-6, rtol=0)
    # A row is exact only if the ranks hold the whole support.
    assert (size[exact] == ranks.sum(-1)[exact]).all()
    return exact


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.6, 2.5]), top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1), size=st.sampled_from([5, 33, 400]),
    scale=st.floats(0.1, 20), digits=st.sampled_from([0, 6]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_support_matches_the_warp(temperature, top_k, top_p, size, scale, digits, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(12, size, generator=generator)).round(decimals=digits)
    logits[::3, ::2] = -torch.inf
    decoding = Decoding(temperature, top_k, top_p)
    stats = position_stats(logits, top_k=32, temperatures=(0.3, 0.7, 1.6, 2.5))
    rebuilt = PositionStats.from_columns(stats.to_columns())
    exact = check_support(logits, decoding, stats)
    assert torch.equal(check_support(logits, decoding, rebuilt), exact)
    if size == 5 or decoding.is_greedy:
        assert exact.all()


def test_support_is_exact_where_it_should_be():
    logits = 4 * torch.randn(200, 2000)
    stats = position_stats(logits, top_k=64, temperatures=(0.7,))
    for decoding in (Decoding(1.6, 20, 0.8), Decoding(0), Decoding(2.0, 1), Decoding(0.9, 40)):
        assert check_support(logits, decoding, stats).all()
    alone = check_support(logits, Decoding(0.7, 0, 0.8), stats)
    assert alone.float().mean() > 0.9
    # No log_partition_at: top-p alone is decided at T = 1 only.
    stats.temperatures = ()
    assert not stats.support_exact(Decoding(0.7, 0, 0.8)).any()
    assert stats.support_exact(Decoding(1.0, 0, 0.5)).float().mean() > 0.9
    # No truncation: the mask is cut at rank K, but entropy and mass are known.
    assert not stats.support_exact(Decoding()).any()
    assert torch.equal(stats.support_entropy(Decoding()), stats.entropy.double())
    assert (stats.kept_mass(Decoding(1.6)) == 1).all()


def test_ties_beyond_the_last_rank_are_flagged():
    logits = torch.tensor([[5.0, 1.0, 1.0, 1.0, 0.0], [5.0, 1.0, 0.9, 0.5, 0.0]])
    tied = position_stats(logits, top_k=3)
    assert tied.support_exact(Decoding(top_k=2)).tolist() == [False, True]
    assert tied.support_exact(Decoding(top_k=1)).tolist() == [True, True]
    assert position_stats(logits, top_k=5).support_exact(Decoding(top_k=2)).all()


def test_rows_that_are_not_valid_stay_nan():
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 1.0, 2.0]])
    stats = position_stats(logits, top_k=2)
    for decoding in (Decoding(), Decoding(0), Decoding(0.7, 2, 0.9)):
        for values in (stats.kept_mass(decoding), stats.support_entropy(decoding)):
            assert values.isnan().tolist() == [True, False]
        assert not stats.support(decoding)[0].any()
        assert not stats.support_exact(decoding)[0]


def test_renyi_entropy():
    logits = 2 * torch.randn(30, 200)
    stats = position_stats(logits, temperatures=(0.5, 1.6))
    p = logits.double().softmax(-1)
    for t in (0.5, 1.6):
        order = 1 / t
        expected = (p**order).sum(-1).log() / (1 - order)
        torch.testing.assert_close(stats.renyi_entropy(t), expected, atol=2e-6, rtol=2e-6)
    assert torch.equal(stats.renyi_entropy(1.0), stats.entropy.double())
    torch.testing.assert_close(
        stats.top_probs(1.6), (logits.double() / 1.6).softmax(-1).topk(64).values
    )
    for method in (stats.renyi_entropy, stats.top_probs):
        with pytest.raises(UserError, match="temperature = 0.7: not among"):
            method(0.7)
    with pytest.raises(UserError, match="k = 65: must be in 0..64"):
        stats.tail_probability(65)


def test_columns_and_concat_round_trip():
    logits = torch.randn(9, 40)
    targets = torch.arange(9)
    stats = position_stats(logits, top_k=4, temperatures=(0.7, 2.0), targets=targets)
    columns = stats.to_columns()
    assert {len(column) for column in columns.values()} == {9}
    assert columns["top_ids"].dtype == np.int32 and columns["top_logits"].shape == (9, 4)
    rebuilt = PositionStats.from_columns({"sample_id": ["a"] * 9, **columns})
    same(stats, rebuilt)
    assert rebuilt.temperatures == stats.temperatures

    # As a table gives them: read-only arrays, and a column of arrays.
    columns["entropy"].flags.writeable = False
    rows = np.empty(9, dtype=object)
    rows[:] = list(columns["top_logits"])
    same(stats, PositionStats.from_columns({**columns, "top_logits": rows}))

    parts = [position_stats(logits[i : i + 4], top_k=4, temperatures=(0.7, 2.0),
                            targets=targets[i : i + 4]) for i in (0, 4, 8)]  # fmt: skip
    same(stats, PositionStats.concat(parts))
    with pytest.raises(UserError, match="temperatures"):
        PositionStats.concat([parts[0], position_stats(logits, top_k=4)])
    del columns["valid"], columns["entropy"]
    with pytest.raises(UserError, match="missing columns entropy, valid"):
        PositionStats.from_columns(columns)


def test_concat_of_statistics_from_a_table():
    """Their `log_partition_at` is a placeholder without rows."""
    whole = position_stats(torch.randn(7, 30), top_k=4)
    parts = [PositionStats.from_columns(whole.rows(slice(a, b)).to_columns())
             for a, b in ((0, 3), (3, 7))]  # fmt: skip
    joined = PositionStats.concat(parts)
    for name, values in whole.to_columns().items():
        np.testing.assert_array_equal(joined.to_columns()[name], values)


def parts_of(*sizes: int, **arguments) -> list[PositionStats]:
    return [position_stats(torch.randn(n, 30), **{"top_k": 4} | arguments) for n in sizes]


@pytest.mark.parametrize("sizes", [(5, 1), (5, 5), (3, 3), (2,), ()], ids=str)
def test_parts_that_are_not_the_rows_are_refused(sizes):
    """Also those that come after a first part which holds all of them."""
    said = f"the parts hold {sum(sizes)} rows, not 5" if sizes else "needs at least one part"
    with pytest.raises(UserError, match=f"collect: {said}"):
        PositionStats.collect(iter(parts_of(*sizes)), 5)


@pytest.mark.parametrize("sizes", [(5,), (5, 0), (0, 5), (0, 2, 0, 3)], ids=str)
def test_empty_parts_change_nothing(sizes):
    parts = parts_of(*sizes)
    whole = PositionStats.collect(iter(parts), 5)
    for name, values in whole.to_columns().items():
        joined = np.concatenate([part.to_columns()[name] for part in parts])
        np.testing.assert_array_equal(values, joined)


@pytest.mark.parametrize("unlike", [
    {"temperatures": (0.7,)}, {"top_k": 3}, {"targets": torch.tensor([1, 2])},
], ids=lambda arguments: next(iter(arguments)))  # fmt: skip
def test_parts_of_different_kinds_are_refused(unlike):
    """One without targets would leave the rows of `target_logprob` unwritten."""
    parts = [*parts_of(2), *parts_of(2, **unlike)]
    for order in (parts, parts[::-1]):
        with pytest.raises(UserError, match="different temperatures, numbers of ranks or targets"):
            PositionStats.concat(order)
        with pytest.raises(UserError, match="different temperatures, numbers of ranks or targets"):
            PositionStats.collect(iter(order), 4)


def test_what_a_decoding_leaves_is_the_callers_to_edit():
    stats = position_stats(torch.randn(6, 40), top_k=8)
    for decodings in ([Decoding(1.6, 4, 0.8)], [Decoding()]):  # two ways to compute
        first = stats.truncated(decodings)
        kept = [column.clone() for column in first]
        for column in first:
            column.zero_()
        for column, want in zip(stats.truncated(decodings), kept, strict=True):
            assert torch.equal(column, want)


def test_the_names_of_the_columns_are_those_of_the_fields():
    """What a saved table must hold, in this order; the probe table's schema follows it."""
    assert SCALARS == ("max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass")
    assert set(REQUIRED) == {*SCALARS, *RANKED, "valid"}
    columns = position_stats(torch.randn(3, 9), top_k=2).to_columns()
    assert tuple(columns) == REQUIRED
    assert {name for name, values in columns.items() if values.ndim == 2} == set(RANKED)

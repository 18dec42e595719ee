"""`lm_head_stats` against the float64 statistics of the materialised logits."""

import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.kernels import head, reference
from ssd_probe.kernels.head import Head, lm_head_stats

FIELDS = ("log_partition", "entropy", "varentropy", "tail_log_mass", "log_partition_at",
          "top_logits", "target_logprob")  # fmt: skip


def check(hidden, weight, backend, *, bias=None, scale=1.0, softcap=None, vocab_size=None):
    targets = torch.randint(vocab_size or len(weight), (len(hidden),))
    arguments = {"top_k": 20, "temperatures": (1.6,), "targets": targets}
    z = hidden.double() @ weight.double().T
    z = scale * (z if bias is None else z + bias.double())
    z = z if softcap is None else softcap * (z / softcap).tanh()
    want = reference.position_stats(z, vocab_size=vocab_size, **arguments)
    got = lm_head_stats(hidden, weight, bias=bias, scale=scale, softcap=softcap,
                        vocab_size=vocab_size, backend=backend, **arguments)  # fmt: skip
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name), rtol=2e-5, atol=2e-5
        )
    # Logits closer than float32 tells may change places.
    assert (got.top_ids == want.top_ids).float().mean() > 0.97
    assert (got.target_rank - want.target_rank).abs().max() <= 2
    assert torch.equal(got.valid, want.valid)
    return got


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_kind_of_head(backend, dtype, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 2**20)  # several chunks of 1,024 ids
    monkeypatch.setattr(head, "LOGITS_BYTES", 2**17)
    hidden, weight = torch.randn(33, 64).to(dtype), (0.4 * torch.randn(3000, 64)).to(dtype)
    check(hidden, weight, backend)
    check(hidden, weight, backend, bias=torch.randn(3000).to(dtype))
    check(hidden, weight, backend, scale=0.25, softcap=3.0, bias=torch.randn(3000))
    check(hidden, weight, backend, softcap=30.0, vocab_size=2900)
    check(hidden[:, ::2], weight[:, ::2], backend)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_more_rows_than_a_chunk_and_none(backend, monkeypatch):
    monkeypatch.setattr(head, "ROWS", 16)
    monkeypatch.setattr(head, "LOGITS_BYTES", 4 * 700 * 16)
    hidden, weight = torch.randn(40, 8), torch.randn(700, 8)
    check(hidden, weight, backend)
    assert len(lm_head_stats(hidden[:0], weight, backend=backend)) == 0


def test_chunks_of_the_vocabulary_do_not_show(monkeypatch):
    """Exact products (small integers), so that the order of sums cannot hide a difference."""
    hidden = torch.randint(-3, 4, (20, 16)).float()
    weight = torch.randint(-2, 3, (5000, 16)).float()
    targets = torch.randint(5000, (20,))
    want = reference.position_stats(hidden @ weight.T, targets=targets)
    for elements in (2**18, 2**19, 2**22):
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", elements)
        got = lm_head_stats(hidden, weight, targets=targets)
        assert torch.equal(got.top_ids, want.top_ids)
        assert torch.equal(got.target_rank, want.target_rank)
        torch.testing.assert_close(got.entropy.double(), want.entropy, rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(
            got.tail_log_mass.double(), want.tail_log_mass, rtol=2e-6, atol=1e-6
        )


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_rows_that_are_not_valid(backend):
    hidden, weight = torch.randn(4, 8), torch.randn(700, 8)
    hidden[1, 3], hidden[2, 0] = torch.nan, torch.inf
    stats = lm_head_stats(hidden, weight, backend=backend, targets=torch.arange(4))
    assert stats.valid.tolist() == [True, False, False, True]
    assert stats.target_rank[1:3].tolist() == [-1, -1]
    assert stats.entropy.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("bad", [
    {"hidden": torch.zeros(2, 5)}, {"hidden": torch.tensor(4.0)}, {"bias": torch.zeros(3)},
    {"hidden": torch.zeros(2, 4, dtype=torch.int32)}, {"weight": torch.zeros(0, 4)},
    {"weight": torch.zeros(9, 4, requires_grad=True)}, {"weight": torch.zeros(9, 4, device="meta")},
    {"hidden": torch.zeros(2, 4, requires_grad=True)}, {"scale": torch.inf}, {"softcap": torch.nan},
    {"softcap": 0.0}, {"top_k": 0}, {"targets": [0, 1]},
    {"temperatures": (0.0,)}, {"targets": torch.tensor([0, 9])},
    {"vocab_size": 10}, {"backend": "cuda"},
], ids=str)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(bad):
    arguments = {"hidden": torch.zeros(2, 4), "weight": torch.zeros(9, 4), **bad}
    with pytest.raises(UserError, match="^[^\n]+$"):
        lm_head_stats(**arguments)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 40)], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_head_is_its_formula(dtype, bias):
    """All ids, some of them, and each row's target alone."""
    hidden, weight = torch.randn(9, 16).to(dtype), torch.randn(40, 16).to(dtype)
    bias = None if bias is None else bias.to(dtype)
    z = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    z = 3 * (0.5 * z / 3).tanh()
    close = 2e-2 if dtype == torch.bfloat16 else 1e-5
    tolerance = {"rtol": close, "atol": close}
    layer = Head(weight, bias, 0.5, 3.0)
    targets = torch.arange(9) * 4
    for got, want in (
        (layer.logits(hidden), z),
        (layer.rows(slice(30, None)).logits(hidden), z[:, 30:]),
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want.to(dtype).double(), **tolerance)
    exact = layer.in_float32().logits(hidden)
    torch.testing.assert_close(exact, z.float())
    of_targets, error = layer.of_targets(hidden, targets)
    torch.testing.assert_close(of_targets, z[torch.arange(9), targets])
    assert ((exact[torch.arange(9), targets] - of_targets).abs() <= error).all()


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 300])
def test_equal_rows_of_the_weight_tie(backend, dtype, rows):
    """As those of tokens that were never trained: 263 of 300 ranks were wrong, by up to 398."""
    hidden, weight = torch.randn(rows, 576).to(dtype), (0.05 * torch.randn(3000, 576)).to(dtype)
    weight[2000:2400] = weight[2000]
    for bias, scale, softcap in ((None, 1.0, None), (torch.ones(3000), 0.5, 30.0)):
        targets = torch.randint(2000, 2400, (rows,))
        z = hidden.double() @ weight.double().T * scale + (0 if bias is None else scale)
        z = z if softcap is None else softcap * (z / softcap).tanh()
        z[:, 2000:2400] = z[:, 2000:2001]  # float64 products, too, may round apart
        want = reference.position_stats(z, targets=targets).target_rank
        got = lm_head_stats(hidden, weight, bias=bias, scale=scale, softcap=softcap,
                            targets=targets, backend=backend).target_rank  # fmt: skip
        assert (got - want).abs().max() <= 1  # others' logits within rounding
        assert rows <= 3 or (got == want).float().mean() > 0.97


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_an_infinite_cap_is_none(backend):
    hidden, weight = torch.randn(3, 8), torch.randn(700, 8)
    got = lm_head_stats(hidden, weight, softcap=torch.inf, backend=backend)
    assert torch.equal(got.entropy, lm_head_stats(hidden, weight, backend=backend).entropy)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_leading_dimensions_and_rows_without_a_target(backend):
    hidden, weight = torch.randn(2, 5, 8), torch.randn(700, 8)
    targets = torch.randint(700, (2, 5))
    whole = lm_head_stats(hidden.view(10, 8), weight, targets=targets.view(10), backend=backend)
    targets[1, 3] = -100
    got = lm_head_stats(hidden, weight, targets=targets, backend=backend)
    assert got.target_rank[8] == -1 and got.target_logprob[8].isnan()
    rest = torch.arange(10) != 8
    assert torch.equal(got.target_rank[rest], whole.target_rank[rest])
    assert torch.equal(got.target_logprob[rest], whole.target_logprob[rest])
    assert torch.equal(got.entropy, whole.entropy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [None, 3.0])
def test_a_16_bit_product_keeps_its_float32_where_it_can(dtype, bias, monkeypatch):
    """As on GPUs, whose product takes `out_dtype`; this CPU's does not, so here float32 stands in.
    Rounded to bfloat16 these logits tie by the dozen."""
    hidden, weight = torch.randn(4, 64).to(dtype), torch.randn(700, 64).to(dtype)
    bias = None if bias is None else torch.full((700,), bias).to(dtype)
    z = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert len(Head(weight, bias).logits(hidden)[0].unique()) < 690
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: mm(a.to(out_dtype), b.to(out_dtype)))
    monkeypatch.setattr(head, "_keeps_float32", lambda weight: True)
    wide = Head(weight, bias, 2.0, 30.0).wide_logits(hidden)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, (30 * (2 * z / 30).tanh()).float(), rtol=1e-5, atol=1e-5)

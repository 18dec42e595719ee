"""`Decoding` against transformers' own warpers, and against a float64 loop written out here."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.supports.rules import TopH, by_logits

SETTINGS = [
    Decoding(),
    Decoding(0.0, 20, 0.8),
    Decoding(1.6, 20, 0.8),
    Decoding(0.7, 5),
    Decoding(2.0, 0, 0.95),
    Decoding(0.3, 1, 0.5),
    Decoding(1.1, 1000, 0.9),
    Decoding(1.0, 0, 1e-6),
]


def support_by_loop(logits: list[float], decoding: Decoding) -> set[int]:
    """Ids that survive, for one row: the paper's words, one token at a time."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if decoding.is_greedy:
        return {order[0]}
    k = decoding.top_k
    if 0 < k < len(order):
        order = [i for i in order if logits[i] >= logits[order[k - 1]]]
    order = [i for i in order if logits[i] > -math.inf]
    weights = [math.exp((logits[i] - logits[order[0]]) / decoding.temperature) for i in order]
    support, mass = set(), 0.0
    for token, weight in zip(order, weights, strict=True):
        support.add(token)
        mass += weight / math.fsum(weights)
        if decoding.top_p < 1 and mass >= decoding.top_p:
            break
    return support


def support(decoding: Decoding, logits: list[float] | torch.Tensor) -> set[int]:
    warped = decoding.warp(torch.as_tensor(logits))
    return set(torch.nonzero(warped > -torch.inf).flatten().tolist())


@pytest.mark.parametrize("decoding", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 507])
def test_support_and_values_match_the_loop(decoding, dtype, size):
    logits = (3 * torch.randn(40, size, dtype=torch.float64)).to(dtype)
    logits[:, size // 2 + 1 :: 3] = -torch.inf
    warped = decoding.warp(logits)
    assert warped.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tempered = logits.double() / (1.0 if decoding.is_greedy else decoding.temperature)
    for row, raw, expected in zip(warped, logits, tempered, strict=True):
        kept = row > -torch.inf
        assert set(kept.nonzero().flatten().tolist()) == support_by_loop(raw.tolist(), decoding)
        torch.testing.assert_close(row[kept].double(), expected[kept], rtol=1e-6, atol=0)


@pytest.mark.parametrize("decoding", [d for d in SETTINGS if not d.is_greedy], ids=str)
def test_matches_the_warpers_of_transformers(decoding):
    logits = 4 * torch.randn(200, 307)
    expected = TemperatureLogitsWarper(decoding.temperature)(None, logits)
    if decoding.top_k:
        expected = TopKLogitsWarper(decoding.top_k)(None, expected)
    if decoding.top_p < 1:
        expected = TopPLogitsWarper(decoding.top_p)(None, expected)
    torch.testing.assert_close(decoding.warp(logits), expected)


def test_the_order_decides_the_support():
    logits = [3.0, 2.0, 1.0, 0.0, -1.0]
    temperature_first = support(Decoding(2.0, 0, 0.8), logits)
    top_p_first = support(Decoding(1.0, 0, 0.8), logits)  # T changes no support after this
    assert (temperature_first, top_p_first) == ({0, 1, 2}, {0, 1})
    # Top-p sees the survivors of top-k renormalised: 0.8 of the first three is two of them.
    assert support(Decoding(2.0, 3, 0.8), logits) == {0, 1}


def test_ties_at_k_stay_and_k_beyond_the_vocabulary_is_off():
    logits = [1.0, 2.0, 1.0, 3.0, 1.0, 0.0]
    assert support(Decoding(top_k=3), logits) == {0, 1, 2, 3, 4}
    assert support(Decoding(top_k=6), logits) == set(range(6))
    assert support(Decoding(top_k=7), logits) == set(range(6))
    # Distinct logits that division in float32 would merge are still told apart.
    close = torch.tensor([1.0, 1.0 - 2**-24, 0.0])
    assert support(Decoding(3.0, 1), close) == {0}


def test_top_p_edge():
    dyadic = torch.zeros(8, dtype=torch.float64)  # each exactly 1/8
    assert support(Decoding(top_p=0.25), dyadic) == {0, 1}  # reached exactly: stop there
    assert support(Decoding(top_p=math.nextafter(0.125, 0)), dyadic) == {0}
    assert support(Decoding(top_p=0.25 + 1e-9), dyadic) == {0, 1, 2}
    assert support(Decoding(top_p=0.8), torch.zeros(10)) == set(range(8))  # lowest ids first
    for dtype in (torch.float32, torch.float64):
        decimal = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log().to(dtype)
        assert support(Decoding(top_p=0.8), decimal) == {1, 2}
        assert support(Decoding(top_p=0.5), decimal) == {1}
        assert support(Decoding(top_p=1e-12), decimal) == {1}  # never empty
        assert support(Decoding(top_p=1.0), decimal) == {0, 1, 2}


def test_greedy_threshold_and_lowest_id():
    logits = [0.0, 5.0, 5.0, 4.0]
    assert support(Decoding(math.nextafter(1e-5, 0)), logits) == {1}
    assert support(Decoding(1e-5), logits) == {0, 1, 2, 3}
    assert support(Decoding(0, 2, 0.5), logits) == {1}
    assert Decoding(0).warp(torch.tensor(logits)).tolist() == [-math.inf, 5, -math.inf, -math.inf]


def test_shapes_extremes_and_input_kept():
    logits = torch.randn(2, 3, 1, 11)
    before = logits.clone()
    for decoding in SETTINGS:
        flat = decoding.warp(logits.reshape(-1, 11))
        assert torch.equal(decoding.warp(logits), flat.reshape(logits.shape))
        assert decoding.warp(logits[:0]).shape == (0, 3, 1, 11)
    assert torch.equal(logits, before)
    masked = torch.tensor([0.0, -torch.inf])
    assert Decoding(1e300).warp(masked).tolist() == [0, -math.inf]


@pytest.mark.parametrize("bad", [
    {"temperature": math.nan}, {"temperature": math.inf}, {"temperature": -0.1},
    {"temperature": "1"}, {"temperature": None}, {"temperature": True},
    {"top_k": -1}, {"top_k": 2.5}, {"top_k": 20.0}, {"top_k": None}, {"top_k": True},
    {"top_p": 0}, {"top_p": 1.0001}, {"top_p": -0.5}, {"top_p": math.nan}, {"top_p": math.inf},
], ids=str)  # fmt: skip
def test_bad_values_are_refused_in_one_line(bad):
    (name, value), = bad.items()  # fmt: skip
    with pytest.raises(ValueError) as error:  # what a notebook expects
        Decoding(**bad)
    message = str(error.value)
    assert error.type is UserError
    assert message.startswith(f"{name} = {value!r}: must be ") and "\n" not in message


PAPER_TABLES = """
    llama-3.1-8b-instruct    0.8 20 0.8    0.7 20 0.8    0.9  0 0.8
    qwen3-4b-instruct        1.6 20 0.8    1.1 20 0.8    0.7 20 0.8
    qwen3-4b-thinking        1.1 20 0.95   0.7 20 0.95   0.6 20 0.95
    qwen3-30b-instruct       1.6 20 0.8    0.9 20 0.8    0.7 20 0.8
    qwen3-30b-thinking       1.2 20 0.95   0.7 20 0.95   0.6 20 0.95
    gpt-oss-20b              1.2  0 1.0    1.0 20 0.95   1.0  0 1.0
"""


def test_presets_are_the_tables():
    for line in PAPER_TABLES.strip().splitlines():
        name, *cells = line.split()
        for i, stage in enumerate(("train", "eval", "baseline")):
            temperature, top_k, top_p = cells[3 * i : 3 * i + 3]
            expected = Decoding(float(temperature), int(top_k), float(top_p))
            assert Decoding.preset(name, stage) == expected
    published = Decoding.preset("Qwen/Qwen3-30B-A3B-Instruct-2507", "eval")
    assert published == Decoding.preset("qwen3-30b-instruct", "eval")
    with pytest.raises(UserError, match="qwen3-4b-instruct, .*gpt-oss-20b"):
        Decoding.preset("gpt-2", "train")
    with pytest.raises(UserError, match="train, eval, baseline"):
        Decoding.preset("gpt-oss-20b", "test")


def test_printing_and_recording():
    assert str(Decoding(1.6, 20, 0.8)) == "T=1.6, top-k 20, top-p 0.8"
    assert str(Decoding(0.1 + 0.2)) == "T=0.3"
    assert str(Decoding(0, 20, 0.8)) == "greedy"
    settings = Decoding(np.float32(0.5), np.int64(20), 1).to_dict()  # type: ignore[arg-type]
    assert json.loads(json.dumps(settings)) == settings == {
        "temperature": 0.5, "top_k": 20, "top_p": 1.0, "order": "temperature, top_k, top_p",
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        Decoding().temperature = 2.0  # type: ignore[misc]


def test_import_does_not_load_torch():
    code = "import sys, ssd_probe.decoding as d; d.Decoding(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("decoding", SETTINGS, ids=str)
def test_transformers_draws_from_the_warped_support(decoding):
    """What `warp` says is what `generate` does when nothing else is asked of it."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    asked = GenerationConfig(max_new_tokens=12, do_sample=not decoding.is_greedy, pad_token_id=0)
    if not decoding.is_greedy:
        asked.update(temperature=decoding.temperature, top_k=decoding.top_k, top_p=decoding.top_p)
    asked.update(output_logits=True, output_scores=True, return_dict_in_generate=True)
    ids = torch.tensor([[5, 6]]).expand(4, 2)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=asked)
    warped = decoding.warp(torch.stack(out.logits, 1))  # [4, 12, V]
    drawn = warped.gather(-1, out.sequences[:, 2:, None])
    assert (drawn > -torch.inf).all()
    if not decoding.is_greedy:  # greedy scores are the untruncated logits
        torch.testing.assert_close(torch.stack(out.scores, 1), warped)


@pytest.mark.parametrize("shift", [0.0, 1e15, -1e15, 1e30])
def test_large_logits_keep_their_masses(shift):
    """log 10 is lost in 1e15 + log 10, and each of ten equal tokens then had the whole mass."""
    x = torch.full((1, 10), shift, dtype=torch.float64)
    assert Decoding(0.7, 0, 0.75).kept(x).sum() == 8
    assert by_logits(x.float(), [TopH(0.55)]).size.item() == 5

"""What reaches `generate`: what is asked, in batches that the model can bear, up to its context."""

import copy
import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    GPT2Config,
    MiniMaxConfig,
    Qwen3Config,
    RobertaConfig,
    RwkvConfig,
    xLSTMConfig,
)

from ssd_probe.commands.sample import sample_stage
from ssd_probe.core import generation
from ssd_probe.core import threads as cores
from ssd_probe.core.batching import ALONE, EQUAL, SHARED, batching
from ssd_probe.core.config import SampleConfig
from ssd_probe.core.sample import sample
from ssd_probe.decoding import Decoding
from ssd_probe.models.checkpoints import load_model
from ssd_probe.models.limits import context_length
from ssd_probe.problems.prompts import Prompt
from tests.models import save, tiny_model, tiny_tokenizer

DECODING = Decoding(1.6, 20, 0.8)
PROMPTS = [Prompt(str(n), None, "def f(x):" + " x" * n) for n in (1, 2, 3, 5, 8)]
_SMALL = {"vocab_size": 507, "hidden_size": 32, "num_hidden_layers": 2}
_GPT2 = {"vocab_size": 507, "n_embd": 32, "n_layer": 2, "n_head": 4}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES = {
    "gpt2": GPT2Config(**_GPT2, n_positions=40, **_ENDS),
    "bart": BartConfig(
        vocab_size=507, d_model=32, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=32, max_position_embeddings=128, is_decoder=True,
        is_encoder_decoder=False, **_ENDS,
    ),
    "rwkv": RwkvConfig(**_SMALL, attention_hidden_size=32, context_length=128),
    "minimax": MiniMaxConfig(
        **_SMALL, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=128,
        layer_types=["linear_attention", "full_attention"], block_size=8,
    ),
    "xlstm": xLSTMConfig(
        vocab_size=507, hidden_size=64, num_hidden_layers=2, num_heads=4, qk_dim_factor=1.0
    ),
}  # fmt: skip
HOW = {"gpt2": SHARED, "bart": EQUAL, "rwkv": ALONE, "minimax": EQUAL, "xlstm": EQUAL}


def model_of(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).float().eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.generation_config.eos_token_id = 2
    return model


def answers(model, decoding=DECODING, prompts=PROMPTS, **options):
    rows = sample(model, tiny_tokenizer(), prompts, decoding, **{"max_new_tokens": 12} | options)
    return [row["completion_ids"] for row in rows]


OPINIONS = {
    "stop_strings": ["e"], "token_healing": True, "return_dict_in_generate": True,
    "prompt_lookup_num_tokens": 3, "num_return_sequences": 2, "num_beams": 3,
    "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 12, "min_length": 200,
    "max_time": 1e-9, "suppress_tokens": list(range(3, 300)), "begin_suppress_tokens": [3, 4, 5],
    "bad_words_ids": [[n] for n in range(3, 300)], "sequence_bias": [[[7], 50.0]],
    "forced_bos_token_id": 5, "forced_eos_token_id": 5, "guidance_scale": 3.0,
    "exponential_decay_length_penalty": (1, 9.0), "watermarking_config": {"bias": 9.0},
    "use_cache": False,
    "cache_implementation": "static", "prefill_chunk_size": 2, "renormalize_logits": True,
    "remove_invalid_values": True, "temperature": 0.1, "top_k": 1, "top_p": 0.1, "min_p": 0.9,
    "typical_p": 0.1, "epsilon_cutoff": 0.5, "eta_cutoff": 0.5, "do_sample": True,
    "penalty_alpha": 0.6, "dola_layers": "low", "max_length": 3, "output_scores": True,
    "max_new_tokens": 1, "pad_token_id": 9, "constraints": [1], "force_words_ids": [[5]],
    "encoder_repetition_penalty": 3.0, "use_mtp": True, "is_assistant": True,
}  # fmt: skip


@pytest.mark.parametrize("greedy", [False, True], ids=["drawn", "greedy"])
def test_a_models_own_generation_config_changes_nothing(greedy):
    """Four of them were a crash, others another distribution, in silence."""
    model, decoding = tiny_model("llama"), Decoding(0) if greedy else DECODING
    plain = answers(model, decoding)
    for name, value in OPINIONS.items():
        setattr(model.generation_config, name, value)
        assert answers(model, decoding) == plain, name
    assert model.generation_config.stop_strings == ["e"]  # it is still the model's


def test_what_else_a_config_file_says_changes_nothing_either(tmp_path):
    model = load_model(save(tmp_path, "llama"))
    plain = answers(model)
    config = tmp_path / "config.json"
    others = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    own = json.loads(config.read_text()) | {"return_dict": False, "attention_dropout": 0.9}
    config.write_text(json.dumps(own | others))
    assert answers(load_model(tmp_path)) == plain


def test_the_models_stop_tokens_are_what_is_kept():
    model = tiny_model("llama")
    whole = answers(model)
    token = whole[0][3]
    model.generation_config.eos_token_id = [2, token]
    for ids, before in zip(answers(model), whole, strict=True):
        end = before.index(token) + 1 if token in before else len(before)
        assert ids == before[:end]


@pytest.mark.parametrize("family", HOW)
def test_greedy_answers_do_not_depend_on_the_batch(family):
    """RWKV's and MiniMax's states and Bart's positions see padding; xLSTM's forward fell over."""
    model = model_of(family)
    assert batching(model) == HOW[family]
    alone = answers(model, Decoding(0), batch_size=1)
    assert answers(model, Decoding(0), batch_size=8) == alone
    assert answers(model, DECODING, batch_size=8) == answers(model, DECODING, batch_size=1)
    same = [Prompt(f"{n}", None, PROMPTS[0].text) for n in range(3)]
    assert answers(model, Decoding(0), same, batch_size=8) == [alone[0]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_bears_padding_in_any_precision(dtype):
    assert batching(tiny_model("qwen3").to(dtype)) == SHARED
    assert batching(model_of("gpt2").to(dtype)) == SHARED
    assert batching(model_of("bart").to(dtype)) == EQUAL


def test_float64_with_eager_attention_does_not_bear_padding():
    """Its mask is -inf in the softmax's float32, so padding is NaN, and all that sees it."""
    model = tiny_model("qwen3").double()
    alone = answers(model, batch_size=1)
    assert answers(model, batch_size=8) == alone


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_answer_ends_at_the_models_context(family, capsys):
    """GPT-2 fell over and the batch was lost; rotary positions went on where none was learnt."""
    short = Prompt("short", None, "x")
    long = Prompt("long", None, "abcdefghijklmnopq")
    model = model_of("gpt2") if family == "gpt2" else tiny_model("llama")
    for config in (model.config, model.generation_config):
        config.eos_token_id = None
    model.config.max_position_embeddings = 40
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.eos_token = None
    prompts = [short, long]
    rows = sample(model, tokenizer, prompts, DECODING, max_new_tokens=64, batch_size=8)
    lengths = [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows]
    assert lengths == [40, 40] and not any(row["finished"] for row in rows)
    assert "2 of 2 answers end unfinished at the model's context of 40" in capsys.readouterr().err
    alone = sample(model, tokenizer, prompts, DECODING, max_new_tokens=64, batch_size=1)
    assert alone == rows
    some = sample(model, tokenizer, prompts, DECODING, max_new_tokens=30, n=2)
    assert [len(row["completion_ids"]) for row in some] == [
        30,
        30,
        *[40 - len(rows[1]["prompt_ids"])] * 2,
    ]
    assert "2 of 4 answers" in capsys.readouterr().err


def test_the_context_is_the_configs_and_yarns_the_stretched_one():
    def of(**options):
        model = tiny_model("llama")
        model.config = options.pop("config", Qwen3Config)(**options)
        return context_length(model)

    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    yarn["original_max_position_embeddings"] = 32
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    assert of(max_position_embeddings=64) == 64
    assert of(max_position_embeddings=32, rope_parameters=yarn) == 128
    assert of(max_position_embeddings=128, rope_parameters=yarn) == 128
    assert of(max_position_embeddings=64, rope_parameters=linear) == 64
    assert of(config=GPT2Config, n_positions=40) == 40
    assert of(config=BloomConfig) is None


def test_positions_that_count_from_the_padding_id_end_sooner():
    """Roberta's 42 rows are 40 positions: probing its 41st token was an IndexError."""
    options = _SMALL | {"num_attention_heads": 4, "intermediate_size": 48, "is_decoder": True}
    config = RobertaConfig(**options, max_position_embeddings=42, pad_token_id=1, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    assert context_length(model) == 40
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.eos_token = None
    rows = sample(model, tokenizer, PROMPTS, DECODING, max_new_tokens=64, batch_size=8)
    assert {len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows} == {40}
    assert rows == sample(model, tokenizer, PROMPTS, DECODING, max_new_tokens=64, batch_size=1)
    with torch.no_grad():
        model(torch.tensor([rows[0]["prompt_ids"] + rows[0]["completion_ids"]]))


def test_batches_and_what_ended_at_the_context_are_recorded(tmp_path):
    model = save(tmp_path / "m", "qwen3", max_position_embeddings=20)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "abcdefghijkl"}\n{"prompt": "x"}\n')
    out, config = tmp_path / "s.jsonl", SampleConfig(n=3, max_new_tokens=30)
    rows = sample_stage(str(model), str(prompts), DECODING, out, config)
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    ended = [len(r["prompt_ids"] + r["completion_ids"]) == 20 and not r["finished"] for r in rows]
    assert record["batches"] == SHARED and record["samples"] == 6
    assert record["ended_at_context"] == sum(ended) >= 1
    assert record["finished"] == sum(row["finished"] for row in rows)
    assert sample_stage(str(model), str(prompts), DECODING, out, config) == rows


@pytest.mark.parametrize(("most", "threads"), [(10**9, 1), (0, 2)])
def test_a_small_model_keeps_to_one_thread(most, threads, monkeypatch):
    """And what the caller had set stands again afterwards, also after an error."""
    monkeypatch.setattr(cores, "SMALL", most)
    before, seen = torch.get_num_threads(), []

    def draw(ids, scores):
        seen.append(torch.get_num_threads())
        if ids.shape[1] > 4:
            raise ArithmeticError
        return scores

    torch.set_num_threads(2)
    try:
        with pytest.raises(ArithmeticError):
            generation.generate(tiny_model("qwen3"), [[1, 2]], 8, set(), draw)
        assert {*seen} == {threads} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

"""Sampling and fine-tuning: reproducible, resumable, true to what was asked."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core import requests
from ssd_probe.core import sample as core
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.core.sample import sample, sample_to_file, usable
from ssd_probe.core.train import train
from ssd_probe.core.training.batches import IGNORED, example
from ssd_probe.decoding import Decoding
from ssd_probe.engines.hf import Hf
from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import bundled_checkpoint, load_model, load_tokenizer
from ssd_probe.models.identity import Checkpoint
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.problems.prompts import Prompt, read_prompts
from tests.models import ARCHITECTURES, save, tiny_model, tiny_tokenizer
from tests.tokenizer_kinds import tokenizer_of

DECODING = Decoding(1.6, 20, 0.8)
CONFIG = SampleConfig(max_new_tokens=48, batch_size=2)
PROMPTS = read_prompts("tiny:dev", 6)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_tokenizer("tiny")


def draw(tiny, decoding=DECODING, **options):
    model, tokenizer = tiny
    return sample(model, tokenizer, PROMPTS, decoding, max_new_tokens=48, **options)


def test_the_same_seed_gives_the_same_samples_and_another_does_not(tiny):
    first = draw(tiny, n=2, seed=1)
    assert draw(tiny, n=2, seed=1) == first
    assert [r["completion"] for r in draw(tiny, n=2, seed=2)] != [r["completion"] for r in first]


def test_rows_follow_the_prompts_and_carry_ids_text_and_meta(tiny):
    rows = draw(tiny, n=2, batch_size=5)
    assert [r["problem_id"] for r in rows] == [p.problem_id for p in PROMPTS for _ in range(2)]
    tokenizer = tiny[1]
    for row in rows:
        text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
        assert row["completion"] == text
        assert row["finished"] == (row["completion_ids"][-1] == tokenizer.eos_token_id)
        assert tokenizer.pad_token_id not in row["completion_ids"]
        assert row["difficulty"] in ("easy", "medium", "hard")


@pytest.mark.parametrize("decoding", [DECODING, Decoding(0), Decoding(2.0, 5)], ids=str)
def test_every_token_lies_in_the_support_of_the_decoding(tiny, decoding):
    model, _ = tiny
    for row in draw(tiny, decoding):
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(row["prompt_ids"]) - 1 : -1]
        chosen = torch.tensor(row["completion_ids"])
        # A hair of slack: generation and teacher forcing round differently at a nucleus's edge.
        relaxed = Decoding(
            decoding.temperature, decoding.top_k, min(1.0, decoding.top_p + 1e-4)
        ).warp(logits)
        assert relaxed.gather(1, chosen[:, None]).isfinite().all()


def test_an_interrupted_file_resumes_to_the_undisturbed_one(tiny, tmp_path):
    model, tokenizer = tiny
    whole = draw(tiny, batch_size=2)
    path = tmp_path / "s.jsonl"
    part = tmp_path / "s.jsonl.part"
    draw(tiny, batch_size=2, part=part)
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])  # killed while writing
    engine = Hf(Checkpoint("tiny"), batch_size=2)
    rows = sample_to_file(path, engine, tokenizer, PROMPTS, DECODING, CONFIG)
    whole = [row | engine.about(DECODING) for row in whole]
    assert rows == whole == [json.loads(line) for line in path.read_text().splitlines()]
    assert not part.exists()


def test_a_file_goes_on_with_another_batch_size(tmp_path):
    """When memory runs out: what was drawn stays, and nothing else changes."""
    whole = sample_stage("tiny", "tiny:dev", DECODING, tmp_path / "w", CONFIG, limit=6)
    path, other = tmp_path / "s.jsonl", replace(CONFIG, batch_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "append_part", interrupt_after(requests.append_part, 2))
        with pytest.raises(KeyboardInterrupt):
            sample_stage("tiny", "tiny:dev", DECODING, path, CONFIG, limit=6)
    assert sample_stage("tiny", "tiny:dev", DECODING, path, other, limit=6) == whole
    with pytest.raises(UserError, match="max_new_tokens: 48 -> 47"):
        longer = replace(CONFIG, max_new_tokens=47)
        sample_stage("tiny", "tiny:dev", DECODING, path, longer, limit=6)


def interrupt_after(function, calls):
    left = iter(range(calls))

    def called(*arguments):
        function(*arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt

    return called


def test_what_is_there_without_a_record_is_nobodys_to_use(tmp_path):
    """After `--out` was refused, deleting only the record took the old samples for the new ones."""
    path, greedy = tmp_path / "s.jsonl", Decoding(0)
    sample_stage("tiny", "tiny:dev", DECODING, path, CONFIG, limit=2)
    for name in ("s.jsonl", "s.jsonl.part"):
        (tmp_path / "s.jsonl.run.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"{name}: exists, and s.jsonl.run.json does not say"):
            sample_stage("tiny", "tiny:dev", greedy, path, CONFIG, limit=2)
        path.rename(tmp_path / "s.jsonl.part") if path.exists() else None
    samples = tmp_path / "x.jsonl"
    sample_stage("tiny", "tiny:ssd", DECODING, samples, CONFIG, limit=8)
    student = tmp_path / "student"
    shutil.copytree(bundled_checkpoint(), student)
    with pytest.raises(UserError, match="exists, and run.json does not say"):
        train_stage("tiny", samples, TrainConfig(max_steps=1), student)


def test_bad_input_leaves_no_record_that_refuses_the_mended_one(tmp_path):
    prompts, out = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    prompts.write_text(json.dumps({"prompt": "what the template refuses"}))
    few = replace(CONFIG, max_new_tokens=2)

    def refuse(*arguments):
        raise UserError("the chat template refuses these messages")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="template"):
        patch.setattr(core, "render_prompt", refuse)
        sample_stage("tiny", str(prompts), DECODING, out, few)
    prompts.write_text(json.dumps({"prompt": "def f(xs):"}))
    assert len(sample_stage("tiny", str(prompts), DECODING, out, few)) == 1
    longer = TrainConfig(max_steps=1, max_length=2)
    with pytest.raises(UserError, match="nothing to train on"):
        train_stage("tiny", out, longer, tmp_path / "student")
    assert not (tmp_path / "student" / "run.json").exists()


def test_answers_that_a_prompt_file_holds_are_not_the_samples(tiny):
    model, tokenizer = tiny
    theirs = {"completion": "theirs", "completion_ids": [1], "finished": True, "level": "hard"}
    prompt = replace(PROMPTS[0], meta=theirs)
    (row,) = sample(model, tokenizer, [prompt], DECODING, CONFIG)
    assert row["completion"] != "theirs" and row["completion_ids"] != [1]
    assert row["level"] == "hard"


@pytest.mark.parametrize("ids", ["abc", [1.5], [-1], [10**6]])
def test_ids_that_are_none_are_refused(tiny, tmp_path, ids):
    row = {"sample_id": "a", "prompt_ids": [1], "completion_ids": ids}
    with pytest.raises(UserError, match="sample a: `completion_ids` must be a list of token ids"):
        train(tiny[0], tiny[1], [row], TrainConfig(max_steps=1), tmp_path)


@pytest.mark.parametrize(("config", "wrong"), [
    (SampleConfig, {"n": None}), (SampleConfig, {"batch_size": 1.5}), (SampleConfig, {"n": True}),
    (SampleConfig, {"seed": float("nan")}), (TrainConfig, {"learning_rate": "1"}),
    (TrainConfig, {"learning_rate": float("inf")}), (TrainConfig, {"epochs": float("inf")}),
    (TrainConfig, {"bf16": "1"}), (TrainConfig, {"epochs": 0}), (ProbeConfig, {"top_k": 1.5}),
    (ProbeConfig, {"max_length": 1}), (ProbeConfig, {"include_prompt": 1}),
])  # fmt: skip
def test_settings_of_a_wrong_kind_are_one_line(config, wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} = [^\n]+$"):
        config(**wrong)


def test_settings_are_plain_numbers():
    config = SampleConfig(n=np.int64(3), seed=np.uint8(1))
    assert type(config.n) is int and json.dumps(config.recorded())
    assert type(TrainConfig(learning_rate=np.float32(1)).learning_rate) is float
    assert ProbeConfig(max_length=None).max_length is None


def test_stubs_are_dropped_and_nothing_else():
    rows = [{"completion": text} for text in ("", "pass", "\n pass \n", "def f():\n    wrong(")]
    assert usable(rows) == rows[3:]
    bodies = ("", "\n", "\n    pass", "\n    ...\n", "\n    return 1", "\n    a\n    b")
    raw = [{"completion": text, "style": "raw", "stop": ["\ndef"]} for text in bodies]
    assert usable(raw) == raw[4:]


def test_training_lowers_the_loss_on_its_samples_and_saves_a_checkpoint(tiny, tmp_path):
    rows = draw(tiny, n=4)
    model = load_model("tiny", dtype="float32")
    before = loss_of(model, rows)
    config = TrainConfig(learning_rate=1e-3, max_steps=12, batch_size=8, warmup_steps=1)
    train(model, tiny[1], rows, config, tmp_path)
    after = loss_of(load_model(str(tmp_path)), rows)
    assert after < before - 0.01
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 12


def loss_of(model, rows):
    """Mean loss of the completion tokens, nats."""
    losses = []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)
        start = len(row["prompt_ids"])
        losses.append(-logp[start - 1 :].gather(1, ids[0, start:, None]).mean().item())
    return sum(losses) / len(losses)


def test_only_the_completion_has_a_loss():
    row = {"prompt_ids": [5, 6, 7], "completion_ids": [8, 9]}
    found = example(row)
    assert found["labels"] == [IGNORED] * 3 + [8, 9]
    assert found["input_ids"] == [5, 6, 7, 8, 9]


def test_samples_without_ids_or_all_too_long_are_refused(tiny, tmp_path):
    model, tokenizer = tiny
    with pytest.raises(UserError, match="no token ids"):
        train(model, tokenizer, [{"completion": "x"}], TrainConfig(), tmp_path)
    row = {"prompt_ids": [1], "completion_ids": [2] * 50}
    with pytest.raises(UserError, match="1 longer than 8 tokens, max_length"):
        train(model, tokenizer, [row], TrainConfig(max_length=8), tmp_path)


@pytest.mark.parametrize("kind", ["left padding", "byte-level", "no pad"])
def test_the_loss_is_that_of_each_sample_alone_whatever_the_tokenizer_pads(kind, tmp_path):
    """Padded on the left, GPT-2's learned positions begin at the padding; without a pad token
    there was no training at all."""
    config = GPT2Config(vocab_size=507, n_embd=32, n_layer=2, n_head=4, n_positions=40)
    config.bos_token_id = config.eos_token_id = 2
    model = GPT2LMHeadModel(config).eval()
    torch.nn.init.normal_(model.transformer.wpe.weight, std=0.5)
    rows = [{"prompt_ids": [5, 6], "completion_ids": [*range(7, 7 + n)]} for n in (2, 9, 30)]
    logps = []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        logps.append(model(ids).logits[0, 1:-1].log_softmax(-1).gather(1, ids[0, 2:, None]))
    by_hand = -torch.cat(logps).mean().item()
    still = TrainConfig(learning_rate=0, max_steps=10, batch_size=3)
    for module in model.modules():
        module.p = 0.0 if isinstance(module, torch.nn.Dropout) else None
    metrics = train(model, tokenizer_of(kind), rows, still, tmp_path)
    assert metrics[-1]["loss"] == pytest.approx(by_hand, abs=1e-4)


def test_what_is_left_out_of_training_is_said_and_counted(tmp_path, capsys):
    model = save(tmp_path / "model", "llama", max_position_embeddings=20)
    tokenizer = tiny_tokenizer()
    two, one = (tokenizer(text).input_ids for text in ("a\nb", "ab"))
    rows = [
        {"completion": "a\nb", "prompt_ids": [5], "completion_ids": two},
        {"prompt_ids": [5], "completion_ids": two},  # ids alone
        {"prompt_ids": [5], "completion_ids": one},
        {"completion": "pass", "prompt_ids": [5], "completion_ids": one},
        {"completion": "a\nb", "prompt_ids": [5], "completion_ids": []},
        {"completion": "a\nb", "prompt_ids": [5], "completion_ids": [6] * 10},
        {"completion": "a\nb", "prompt_ids": [5], "completion_ids": [6] * 20},
    ]
    samples = tmp_path / "s.jsonl"

    def trained(rows, out, **options):
        write_jsonl(samples, rows)
        config = TrainConfig(max_steps=1, batch_size=2, **options)
        train_stage(str(model), samples, config, tmp_path / out)
        return json.loads((tmp_path / out / "run.json").read_text())

    record = trained(rows, "short", max_length=8)
    reasons = {"empty or of one line": 2, "empty": 1, "longer than 8 tokens, max_length": 2}
    assert (record["of"], record["used"], record["dropped"]) == (7, 2, reasons)
    line = "5 of 7 samples left out (2 empty or of one line, 1 empty, 2 longer than 8 tokens"
    assert line in capsys.readouterr().err
    record = trained(rows, "context")
    assert record["used"] == 3
    assert record["dropped"]["longer than 20 tokens, the model's context"] == 1
    with pytest.raises(UserError, match=r"nothing to train on: 1 of 1 .*1 empty or of one line"):
        trained(rows[3:4], "stubs")
    assert not (tmp_path / "stubs" / "run.json").exists()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_architecture_samples_humaneval_and_chat_prompts(architecture):
    model, tokenizer = tiny_model(architecture), tiny_tokenizer()
    chat = Prompt("chat", [{"role": "user", "content": "add two numbers"}], None, {})
    prompts = [*read_prompts("humaneval", 3), chat]
    rows = sample(model, tokenizer, prompts, DECODING, max_new_tokens=6, batch_size=2)
    assert [row["problem_id"] for row in rows] == [prompt.problem_id for prompt in prompts]
    assert all(1 <= len(row["completion_ids"]) <= 6 for row in rows)
    alone = sample(model, tokenizer, prompts[:1], Decoding(0), max_new_tokens=6)[0]
    padded = sample(model, tokenizer, prompts, Decoding(0), max_new_tokens=6)[0]
    assert padded["completion_ids"] == alone["completion_ids"]  # padding changes nothing


def test_a_text_prompt_needs_no_chat_template(tiny):
    model, tokenizer = tiny
    prompt = Prompt("p", None, "def solve(xs):", {})
    row = sample(model, tokenizer, [prompt], Decoding(0), max_new_tokens=4)[0]
    assert row["prompt"] == "def solve(xs):" and len(row["completion_ids"]) <= 4


def _edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def sampled(tmp_path):
    """A function that samples one prompt from a copy of the tiny model into one file."""
    model = shutil.copytree(bundled_checkpoint(), tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    write_jsonl(prompts, [{"problem_id": "p", "messages": messages, "level": 1}])

    def run():
        few = SampleConfig(max_new_tokens=2)
        return sample_stage(str(model), str(prompts), DECODING, tmp_path / "s.jsonl", few)

    run()
    return run, model, prompts


@pytest.mark.parametrize(("change", "message"), [
    (lambda model, _: _edit(model / "config.json", rms_norm_eps=0.5), r"model\.config: "),
    (lambda model, _: (model / "chat_template.jinja").write_text("{{ messages }}"),
     r"model\.template: "),
    (lambda model, _: _edit(model / "generation_config.json", repetition_penalty=2.0),
     r"model\.generation: "),
    (lambda _, prompts: _edit(prompts, level=2), "prompts: "),  # what samples carry along
])  # fmt: skip
def test_samples_of_another_model_or_other_prompts_are_not_reused(sampled, change, message):
    run, model, prompts = sampled
    rows = run()
    change(model, prompts)
    with pytest.raises(UserError, match=message):
        run()
    assert rows[0]["level"] == 1


def test_where_a_model_lies_and_on_what_it_ran_is_recorded_and_may_change(sampled, tmp_path):
    run, model, _ = sampled
    rows = run()
    shutil.move(model, tmp_path / "model-2")
    (tmp_path / "model").symlink_to(tmp_path / "model-2")
    assert run() == rows
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    assert record["device"] == "cpu" and record["model"].endswith("model")


def test_a_checkpoint_of_another_config_is_not_reused(sampled, tmp_path):
    run, model, _ = sampled
    row = run()[0] | {"completion": "a\nb"}
    write_jsonl(tmp_path / "t.jsonl", [row])
    config = TrainConfig(max_steps=1, batch_size=1)
    train_stage(str(model), tmp_path / "t.jsonl", config, tmp_path / "student")
    train_stage(str(model), tmp_path / "t.jsonl", config, tmp_path / "student")
    _edit(model / "config.json", rms_norm_eps=0.5)
    with pytest.raises(UserError, match=r"model\.config: "):
        train_stage(str(model), tmp_path / "t.jsonl", config, tmp_path / "student")

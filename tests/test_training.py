"""Fine-tuning as large models need it: packed, in bfloat16, adapted, reported, killed, sharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM

from ssd_probe import UserError
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import TrainConfig
from ssd_probe.core.loss import completion_loss
from ssd_probe.core.train import train
from ssd_probe.core.training.adapters import with_lora
from ssd_probe.core.training.batches import collate, collator, example
from ssd_probe.core.training.resuming import last_whole
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import load_model
from tests.fsdp_on_cpu import SHARDED
from tests.models import FAMILIES, save, tiny_model, tiny_tokenizer
from tests.test_loss import gradients

of_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def rows(count=6, longest=30):
    torch.manual_seed(0)
    lengths = [(1 + i % 4, 1 + (7 * i) % longest) for i in range(count)]
    return [
        {"prompt_ids": torch.randint(3, 380, (p,)).tolist(),
         "completion_ids": torch.randint(3, 380, (c,)).tolist()}
        for p, c in lengths
    ]  # fmt: skip


def loss_of(model, batch):
    loss = completion_loss(model)
    with loss.installed():
        labels = batch.pop("labels")
        value = loss(model(**batch, use_cache=False), labels)
        return value.item(), gradients(model, value)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_samples_have_the_loss_and_the_gradients_of_padded_ones(family, attention):
    model = tiny_model(family)
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip(f"{family} has no sdpa")
    model.set_attn_implementation(attention)
    examples = [example(row) for row in rows()]
    if family == "gpt_oss":  # its masks know nothing of positions (transformers 5.23)
        with pytest.raises(UserError, match="GptOssForCausalLM with .* lets a packed sample see"):
            collator(model, 0, packing=True)
        return
    packed = collator(model, 0, packing=True)(examples)
    assert packed["input_ids"].shape == (1, sum(e["length"] for e in examples))
    want, got = loss_of(model, collate(examples)), loss_of(model, packed)
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    for name, gradient in want[1].items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(got[1][name], gradient, rtol=1e-5, atol=1e-5 * largest)


class Leaking(LlamaForCausalLM):
    """Positions are not looked at, as in models that count them themselves."""

    def forward(self, *arguments, position_ids=None, **kwargs):
        return super().forward(*arguments, **kwargs)


def leaking():
    return Leaking(tiny_model("llama").config)


def recurrent():
    return MambaForCausalLM(MambaConfig(vocab_size=507, hidden_size=32, num_hidden_layers=2))


@pytest.mark.filterwarnings("ignore")  # Mamba's, of kernels that are not there
@pytest.mark.parametrize("make", [leaking, recurrent])
def test_a_model_whose_packed_samples_see_each_other_is_refused(make, tmp_path):
    config = TrainConfig(max_steps=1, packing=True)
    with pytest.raises(UserError, match="packing: .*train without packing"):
        train(make().eval(), tiny_tokenizer(), rows(), config, tmp_path)


def test_a_packed_training_is_the_padded_one(tmp_path):
    weights = []
    for packing in (False, True):
        model = tiny_model("qwen3")
        config = TrainConfig(learning_rate=1e-3, max_steps=5, batch_size=3, packing=packing)
        train(model, tiny_tokenizer(), rows(), config, tmp_path / str(packing))
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_bfloat16_keeps_weights_in_float32_that_small_steps_move(tmp_path):
    """At 5e-6 a step moves no bfloat16 weight."""
    model = tiny_model("llama")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    config = TrainConfig(max_steps=3, batch_size=3, warmup_steps=0, dtype="bfloat16")
    assert config.half and config.learning_rate == 5e-6
    train(model, tiny_tokenizer(), rows(), config, tmp_path)
    after = load_file(tmp_path / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert after.dtype == torch.float32
    assert (after != before).float().mean() > 0.99
    assert after.bfloat16().equal(before.bfloat16()) or (after - before).abs().max() < 1e-4


@pytest.mark.parametrize("checkpointing", [False, True])
@of_peft
def test_lora_trains_adapters_alone_and_is_loaded_as_a_model(tmp_path, checkpointing, monkeypatch):
    save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    write_jsonl("s.jsonl", rows())
    config = TrainConfig(
        learning_rate=1e-2, max_steps=4, batch_size=3, warmup_steps=0, lora_rank=4,
        dtype="bfloat16", gradient_checkpointing=checkpointing,
    )  # fmt: skip
    train_stage("base", Path("s.jsonl"), config, Path("student"))
    weights = load_file("student/adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert (
        all("lora" in name for name in weights) and not Path("student/model.safetensors").exists()
    )
    monkeypatch.chdir("/")  # the base is found from anywhere
    ids = torch.tensor([rows()[1]["completion_ids"]])
    base, student = (load_model(str(tmp_path / n)) for n in ("base", "student"))
    with torch.no_grad():
        assert (base(ids).logits - student(ids).logits).abs().max() > 1e-3
    with pytest.raises(UserError, match="an adapter itself"):
        with_lora(student, config)
    record = json.loads((tmp_path / "student" / "run.json").read_text())
    assert record["settings"]["lora_rank"] == 4 and "packing" not in record["settings"]


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_reports_go_where_they_are_asked_to(tmp_path, monkeypatch):
    config = TrainConfig(max_steps=10, batch_size=3, report_to="tensorboard")
    train(tiny_model("llama"), tiny_tokenizer(), rows(), config, tmp_path)
    assert [*tmp_path.rglob("events.out.tfevents*")]
    assert "report_to" not in config.recorded()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb is missing; pip install wandb"):
        train(
            tiny_model("llama"), tiny_tokenizer(), rows(), TrainConfig(report_to="wandb"), tmp_path
        )


@pytest.mark.parametrize("wrong", [{"dtype": "float16"}, {"report_to": "mlflow"}])
def test_unknown_names_are_one_line(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} = .*one of"):
        TrainConfig(**wrong)


def test_flash_attention_where_there_is_none_is_one_line(tmp_path):
    config = TrainConfig(max_steps=1, attn="flash_attention_2")
    with pytest.raises(UserError, match="attn = 'flash_attention_2': not to be had here"):
        train(tiny_model("qwen3"), tiny_tokenizer(), rows(), config, tmp_path)


def test_only_whole_checkpoints_are_gone_on_from(tmp_path):
    for step, state in ((2, '{"global_step": 2}'), (4, '{"global_st'), (10, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "epoch_rng_0.pt").write_text("")
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole(tmp_path).name == "checkpoint-2"
    assert last_whole(tmp_path, processes=2) is None
    assert last_whole(tmp_path / "none") is None


@pytest.mark.slow(reason="five kills")
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    command = [sys.executable, "-m", "tests.training_kills", str(tmp_path), "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 5
    whole, killed = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "killed"))
    assert all(killed[name].equal(tensor) for name, tensor in whole.items())
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("whole", "killed")]
    steps, resumed = ([json.loads(line)["step"] for line in text.splitlines()] for text in lines)
    assert steps == resumed


LARGE = {  # whose weights outweigh what else a process holds
    **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "head_dim": 64},
    **{"num_attention_heads": 8, "vocab_size": 4000, "initializer_range": 0.02},
}


@pytest.mark.slow(reason="six processes, of 40 million weights")
def test_two_sharded_processes_train_as_one_and_hold_half_each(tmp_path):
    """Also watched, which every process has to take part in."""
    save(tmp_path / "large", "qwen3", **LARGE)
    save(tmp_path / "small", "qwen3", **LARGE | {"hidden_size": 32, "intermediate_size": 64})
    torch.manual_seed(0)
    samples = [
        {"problem_id": str(i), "prompt_ids": torch.randint(3, 380, (4,)).tolist(),
         "completion_ids": torch.randint(3, 380, (20,)).tolist(), "completion": "a\nb"}
        for i in range(16)
    ]  # fmt: skip
    write_jsonl(tmp_path / "s.jsonl", samples)
    options = ["--samples", str(tmp_path / "s.jsonl"), "--max-steps", "10", "--warmup-steps", "0"]
    options += ["--learning-rate", "1e-3"]
    options += ["--watch", str(tmp_path / "s.jsonl"), "--watch-every", "5"]

    def run(name, model, batch, launcher=(), **variables):
        command = [sys.executable, *launcher, "-m", "tests.fsdp_on_cpu", "train", *options]
        command += ["--model", str(tmp_path / model)]
        # Freed memory goes back at once, else the peak is also what glibc keeps for later.
        paths = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        paths |= {"PEAK": str(tmp_path / f"{name}.peak"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--batch-size", str(batch), "--out", str(tmp_path / name)],
            env={**os.environ, **paths, **variables}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        loss = next(row["loss"] for row in rows if "loss" in row)  # of all processes
        watched = [row["watch/open/kl"] for row in rows if "watch/open/kl" in row]
        return loss, watched, [int(f.read_text()) for f in tmp_path.glob(f"{name}.peak.*")]

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    one, two = run("one", "large", 4), run("two", "large", 2, torchrun, **SHARDED)
    (alone,) = run("none", "small", 4)[2]  # what is no weights, gradients or moments
    beside = max(run("nones", "small", 2, torchrun, **SHARDED)[2])
    print("peaks beyond imports:", one[2], alone, two[2], beside, "losses:", one[0], two[0])
    assert two[0] == pytest.approx(one[0], abs=1e-3)
    assert two[1] == pytest.approx(one[1], rel=1e-2, abs=1e-6) and len(one[1]) == 3
    assert len(two[2]) == 2 and max(two[2]) - beside <= 0.6 * (one[2][0] - alone)
    whole, gathered = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert whole.keys() == gathered.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(gathered[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


ZERO3 = """
distributed_type: DEEPSPEED
deepspeed_config: {zero_stage: 3, zero3_init_flag: true, gradient_accumulation_steps: 1}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
"""


@pytest.mark.slow(reason="three processes")
def test_deepspeed_s_zero_3_trains_as_one_process_and_saves_whole_weights(tmp_path):
    pytest.importorskip("deepspeed", reason="no deepspeed; pip install --no-deps deepspeed ...")
    samples = [
        {"problem_id": str(i), "completion": "a\nb", **row} for i, row in enumerate(rows(16))
    ]
    write_jsonl(tmp_path / "s.jsonl", samples)
    (tmp_path / "zero3.yaml").write_text(ZERO3)
    accelerate = ["accelerate.commands.launch", "--config_file", str(tmp_path / "zero3.yaml"), "-m"]

    def run(name, batch, *options, launcher=()):
        command = [sys.executable, "-m", *launcher, "ssd_probe.cli", "train", *options]
        command += ["--samples", str(tmp_path / "s.jsonl"), "--max-steps", "10"]
        return subprocess.run(
            [*command, "--batch-size", str(batch), "--out", str(tmp_path / name)],
            env={**os.environ, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True,
        )  # fmt: skip

    done = run("one", 8), run("two", 4, launcher=accelerate)
    for each in done:
        assert not each.returncode, each.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)
    refused = run("packed", 4, "--packing", launcher=accelerate)
    assert refused.returncode and "ZeRO-3's parted weights do not allow" in refused.stderr

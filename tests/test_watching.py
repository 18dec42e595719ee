"""A training that is watched: right numbers, the same weights, a whole table after a resume."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from ssd_probe import Decoding, ForkLockCallback, UserError
from ssd_probe.analysis.labels import EntropyRule
from ssd_probe.analysis.theory import kl_divergence, support, three_term_loss
from ssd_probe.commands.train import Watch, decoding_of, train_stage
from ssd_probe.core.config import TrainConfig
from ssd_probe.core.train import train
from ssd_probe.core.training.batches import collate, example
from ssd_probe.decoding import PAPER_TRAIN
from ssd_probe.files.record import begin
from ssd_probe.files.writing import write_jsonl
from ssd_probe.problems.texts import Text
from ssd_probe.watching.contexts import Contexts
from ssd_probe.watching.measuring import STATISTICS, compared, forward_of, means
from tests.models import tiny_model, tiny_tokenizer

DECODING = Decoding(1.6, 20, 0.8)
RULE = EntropyRule(2.5, 3.0, 4.5)  # random models have no locks by the default


def rows(count, seed=0, length=24):
    torch.manual_seed(seed)
    return [
        {"prompt_ids": torch.randint(3, 380, (4,)).tolist(),
         "completion_ids": torch.randint(3, 380, (length + i % 5,)).tolist()}
        for i in range(count)
    ]  # fmt: skip


def texts(count=4):
    return [
        Text(f"{i}", f"{i}", None, None, "", row["prompt_ids"], row["completion_ids"])
        for i, row in enumerate(rows(count, seed=1))
    ]


def watcher(out, **options):
    about = {"decoding": DECODING, "rule": RULE, "every": 2, "out": out, "positions": 9}
    return ForkLockCallback(texts(), tiny_tokenizer(), **about | options)


def plain(model, out, callback, steps=6, resume=None, **options):
    """transformers' own Trainer, with the model's own loss."""
    arguments = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-3,
        report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=2, save_steps=2, **options,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=[example(row) for row in rows(16)],
        data_collator=collate, callbacks=[callback] if callback else [],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_means_are_the_theorys_at_every_place():
    start, model = tiny_model("qwen3"), tiny_model("qwen3", seed=1)
    ids = [rows(1, seed=s)[0]["completion_ids"] for s in (3, 4)]
    contexts = Contexts(
        ids, [0, 0, 1, 1, 1], [3, 9, 1, 5, 20], ["lock", "fork", "lock"] + ["fork"] * 2
    )
    want = {"lock": [], "fork": []}
    with torch.no_grad():
        for row, at, kind in zip(contexts.rows, contexts.at, contexts.kinds, strict=True):
            base, other = (
                m(torch.tensor([ids[row]])).logits[0, at - 1].double().numpy()
                for m in (start, model)
            )
            terms = three_term_loss(other, base, DECODING)
            kept = np.exp(other - np.logaddexp.reduce(other))[support(base, DECODING)].sum()
            want[kind].append([*terms[:3], kept, kl_divergence(base, other)])
    device = torch.device("cpu")
    (places,) = contexts.batches()
    found = contexts.logits(forward_of(start, device), places).numpy()
    parts = [compared(found, contexts.logits(forward_of(model, device), places))]
    for row in means(contexts, parts, DECODING):
        got = [row[n] for n in ("compression", "reshaping", "alignment", "kept_mass", "kl")]
        np.testing.assert_allclose(got, np.mean(want[row["label"]], 0), rtol=2e-4)
        assert row["positions"] == len(want[row["label"]])


@pytest.mark.parametrize("family", ["gemma2", "granite", "gpt_oss"])
def test_logits_at_places_are_the_models_own(family):
    """Its scale and its cap, too, though the output layer sees a few states only."""
    model = tiny_model(family)
    ids = torch.tensor([rows(1)[0]["completion_ids"][:20]])
    at = torch.tensor([4, 11, 17])
    found = forward_of(model, ids.device)(ids, torch.ones_like(ids), torch.zeros_like(at), at)
    with torch.no_grad():
        torch.testing.assert_close(found, model(ids).logits[0, at], rtol=1e-5, atol=1e-5)


def test_batches_hold_whole_sequences(monkeypatch):
    monkeypatch.setattr("ssd_probe.watching.contexts.BATCH_TOKENS", 20)
    contexts = Contexts([[5] * 8, [5] * 9, [5] * 3], [0, 0, 1, 2], [1, 5, 9, 3], ["lock"] * 4)
    assert contexts.batches() == [range(0, 3), range(3, 4)]


def test_a_plain_trainer_is_watched_and_trains_the_same(tmp_path):
    weights = []
    for name in ("watched", "alone"):
        # Draws random numbers, which watching must not.
        model = tiny_model("llama", attention_dropout=0.1)
        callback = watcher(tmp_path / "w") if name == "watched" else None
        trainer = plain(model, tmp_path / name, callback)
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
        assert model.training
        if callback:
            history = trainer.state.log_history
    assert weights[0].equal(weights[1])
    table = pd.read_csv(tmp_path / "w" / "watch.csv")
    assert table["step"].drop_duplicates().tolist() == [0, 2, 4, 6]
    kinds = set(table["label"])
    assert "fork" in kinds and kinds <= {"lock", "fork", "open"}
    first, last = (table[table["step"] == step] for step in (0, 6))
    assert (first["kl"].abs() < 1e-6).all() and (last["kl"] > 1e-4).all()
    assert np.isfinite(table[[*STATISTICS]]).all(axis=None)
    logged = [entry for entry in history if "watch/fork/kl" in entry]
    assert [entry["step"] for entry in logged] == [0, 2, 4, 6]
    assert [entry["step"] for entry in history if "loss" in entry] == [2, 4, 6]
    names = {"watch.csv", "watch.png", "watch.pdf", "watch.svg", "watch.txt", "contexts.json"}
    assert {file.name for file in (tmp_path / "w").iterdir()} == names  # no logits are left


def test_a_resumed_training_keeps_the_table_whole(tmp_path):
    plain(tiny_model("llama"), tmp_path / "a", watcher(tmp_path / "whole"))
    plain(tiny_model("llama"), tmp_path / "b", Stopping(watcher(tmp_path / "parted"), 5))
    half = pd.read_csv(tmp_path / "parted" / "watch.csv")
    assert half["step"].max() == 5  # the last step is always measured
    plain(tiny_model("llama"), tmp_path / "b", watcher(tmp_path / "parted"), resume=True)
    whole, parted = (pd.read_csv(tmp_path / n / "watch.csv") for n in ("whole", "parted"))
    columns = ["step", "label", "positions", *STATISTICS]
    pd.testing.assert_frame_equal(whole[columns], parted[columns], rtol=1e-6)
    with pytest.raises(UserError, match="nothing was watched from the start"):
        plain(tiny_model("llama"), tmp_path / "b", watcher(tmp_path / "new"), resume=True)


class Stopping(ForkLockCallback):
    """Stops a training in its middle."""

    def __init__(self, callback, step):
        self.__dict__.update(callback.__dict__)
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        control.should_training_stop |= state.global_step >= self.step


def test_the_default_interval_is_what_the_share_pays_for(tmp_path, monkeypatch):
    callback = watcher(tmp_path / "w", every=None, share=0.5)
    costs, steps = iter([30.0, 30.0, 30.0, 30.0]), iter([2.0] * 99)
    monkeypatch.setattr(ForkLockCallback, "_measure", lambda self, args, state, *_: (
        self.costs.append(next(costs)), self.rows.append({"step": state.global_step}),
        setattr(self, "measured", state.global_step)))  # fmt: skip
    monkeypatch.setattr("ssd_probe.watching.callback.fig_watch", lambda _: pytest.skip("measured"))
    clock = [0.0]
    monkeypatch.setattr("ssd_probe.watching.callback.time.perf_counter", lambda: clock[0])
    state = type("State", (), {"global_step": 0, "max_steps": 99, "is_world_process_zero": True})()
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    callback.on_train_begin(arguments, state, None, model=tiny_model("llama"))
    for state.global_step in range(1, 70):
        callback.on_step_begin(arguments, state, None)
        clock[0] += next(steps)
        callback.on_step_end(arguments, state, None)
    assert [row["step"] for row in callback.rows] == [0, 30, 60]  # 30 s cost = 0.5 * 2 s * 30


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft
@pytest.mark.parametrize("wrapped", ["lora", "hidden states"])
def test_ours_is_watched_with_its_own_loss_and_with_an_adapter(tmp_path, wrapped):
    model = tiny_model("qwen3")
    if wrapped == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    config = TrainConfig(learning_rate=1e-2, max_steps=4, batch_size=4, warmup_steps=0)

    def watch(trainer):
        return watcher(tmp_path / "w", trainer=trainer)

    train(model, tiny_tokenizer(), rows(8), config, tmp_path / "out", watch)
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    said = [entry for line in lines if "watch/fork/kl" in (entry := json.loads(line))]
    assert [entry["step"] for entry in said] == [0, 2, 4]
    assert said[0]["watch/fork/kl"] < 1e-6 < said[-1]["watch/fork/kl"]


@pytest.mark.parametrize(("options", "message"), [
    ({"every": 0}, "every = 0"), ({"share": 0}, "share = 0"), ({"decoding": Decoding(0)}, "greedy"),
    ({"decoding": Decoding(1.6)}, "its support is not within"),
    ({"max_length": 4}, "no token to watch within the first 4"),
    ({"rule": EntropyRule(0, 90, 91)}, "no lock, fork or open"),
])  # fmt: skip
def test_what_cannot_be_watched_is_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        plain(tiny_model("llama"), tmp_path / "o", watcher(tmp_path / "w", **options), steps=1)
    assert not (tmp_path / "w" / "watch.csv").exists()


def test_a_trainer_without_a_tokenizer_is_told(tmp_path):
    callback = ForkLockCallback(texts(), out=tmp_path / "w")
    with pytest.raises(UserError, match="no tokenizer"):
        plain(tiny_model("llama"), tmp_path / "o", callback, steps=1)


@pytest.mark.filterwarnings("ignore")  # TRL's own, of names that transformers 6 drops
@pytest.mark.slow(reason="imports trl and datasets")
def test_trls_trainer_is_watched(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install trl")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    held_out = [{"input_ids": r["prompt_ids"] + r["completion_ids"]} for r in rows(16)]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "o"), max_steps=4, per_device_train_batch_size=4, use_cpu=True,
        logging_steps=2, report_to=[], bf16=False, learning_rate=1e-3, disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model, arguments, train_dataset=datasets.Dataset.from_list(held_out),
        processing_class=tokenizer,
    )  # fmt: skip
    callback = watcher(tmp_path / "w", trainer=trainer)
    callback.tokenizer = None  # the trainer's is taken
    trainer.add_callback(callback)
    trainer.train()
    assert pd.read_csv(tmp_path / "w" / "watch.csv")["step"].unique().tolist() == [0, 2, 4]
    history = trainer.state.log_history
    assert [e["step"] for e in history if "watch/fork/kl" in e] == [0, 2, 4]
    own = [e for e in history if "loss" in e]
    assert [e["step"] for e in own] == [2, 4]
    assert all("mean_token_accuracy" in e for e in own)  # TRL's own means are still in its entry


@pytest.mark.slow(reason="two processes")
def test_two_processes_make_one_table(tmp_path):
    script = "from tests.test_watching import *; import sys; ranks(sys.argv[1])"
    (tmp_path / "ranks.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "ranks.py"), str(tmp_path)], capture_output=True, text=True,
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "w" / "watch.csv")
    assert table["step"].unique().tolist() == [0, 2, 4]
    assert table.groupby(["step", "label"]).size().max() == 1


def ranks(folder):
    from pathlib import Path

    folder = Path(folder)
    watch = watcher(folder / "w")
    plain(tiny_model("llama"), folder / "o", watch, steps=4, ddp_backend="gloo")


def test_train_watches_what_is_held_out_and_says_what_is_not(tmp_path, capsys):
    samples, watched = tmp_path / "s.jsonl", tmp_path / "w.jsonl"
    ids = [{"problem_id": str(i), **row, "completion": "a\nb"} for i, row in enumerate(rows(8))]
    write_jsonl(samples, ids)
    write_jsonl(watched, ids[:3] + [{**ids[3], "problem_id": "new"}])
    decoding = {"temperature": 1.3, "top_k": 10, "top_p": 0.9, "order": "x"}
    begin(tmp_path / "s.jsonl.run.json", {"decoding": decoding})
    assert decoding_of(samples) == Decoding(1.3, 10, 0.9)
    assert decoding_of(watched) == PAPER_TRAIN
    config = TrainConfig(max_steps=2, batch_size=4)
    train_stage("tiny", samples, config, tmp_path / "out", Watch([str(watched)]))
    assert "3 of 4 watched texts answer problems that are trained on" in capsys.readouterr().err
    assert (tmp_path / "out/watch/watch.png").exists() and (tmp_path / "out/done.json").exists()
    assert "T=1.3, top-k 10, top-p 0.9" in (tmp_path / "out/watch/watch.txt").read_text()
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe/probe.json").write_text("{}")
    with pytest.raises(UserError, match="a probe keeps no prompts"):
        train_stage("tiny", samples, config, tmp_path / "o", Watch([str(tmp_path / "probe")]))


def test_the_real_models_numbers_are_of_its_table():
    """The table of docs/real-models.md, from docs/data."""
    root = Path(__file__).parents[1]
    table = pd.read_csv(root / "docs/data/watch-smollm2.csv").set_index(["step", "label"])
    section = (root / "docs/real-models.md").read_text().split("## While it trains")[1]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section.split("\n## ")[0], re.M)
    assert len(rows) == 6
    asked = [("lock", "tail_mass", 4), ("fork", "tail_mass", 3), ("fork", "entropy", 2),
             ("fork", "target_kl", 3), ("open", "tail_mass", 3)]  # fmt: skip
    for step, cells in rows:
        found = [f"{table.loc[(int(step), kind), name]:.{n}f}" for kind, name, n in asked]
        assert cells.split(" | ") == found
    nearest = table.xs("fork", level="label")["target_kl"].idxmin()
    assert nearest == 4

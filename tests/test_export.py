"""Samples in the forms of other trainers: what `train` trains on, and TRL's loss of the same."""

import json

import pytest
import torch

from ssd_probe.commands.sampling.export import export_stage
from ssd_probe.core.sample import sample
from ssd_probe.core.training.batches import collate, example
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import bundled_checkpoint, load_model, load_tokenizer
from ssd_probe.problems.prompts import read_prompts


@pytest.fixture(scope="module")
def rows():
    model, tokenizer = load_model("tiny"), load_tokenizer("tiny")
    return sample(model, tokenizer, read_prompts("tiny:dev", 4), Decoding(1.0), max_new_tokens=20)


@pytest.fixture
def samples(tmp_path, rows):
    write_jsonl(tmp_path / "s.jsonl", rows)
    return tmp_path / "s.jsonl"


def test_ids_are_what_train_trains_on(samples, rows, tmp_path):
    assert export_stage(samples, "ids", tmp_path / "ids.jsonl") == (4, 0)
    for row, made in zip(rows, read_jsonl(tmp_path / "ids.jsonl"), strict=True):
        prompt, new = row["prompt_ids"], row["completion_ids"]
        assert made == {"input_ids": prompt + new, "labels": [-100] * len(prompt) + new}


def test_messages_end_with_the_answer_and_raw_text_stays_text(samples, rows, tmp_path):
    out = tmp_path / "m.jsonl"
    export_stage(samples, "messages", out)
    for row, made in zip(rows, read_jsonl(out), strict=True):
        answer = {"role": "assistant", "content": row["completion"]}
        assert made == {"messages": [*row["messages"], answer]}
    write_jsonl(samples, [{"prompt": "def f():", "completion": " pass"}])
    export_stage(samples, "messages", out)
    assert read_jsonl(out) == [{"prompt": "def f():", "completion": " pass"}]


def test_unfinished_and_empty_answers(samples, rows, tmp_path):
    cut = [row | {"finished": i > 0} for i, row in enumerate(rows)]
    cut[3] |= {"completion": "", "completion_ids": []}
    write_jsonl(samples, cut)
    assert export_stage(samples, "ids", tmp_path / "a", finished=True) == (2, 1)
    assert export_stage(samples, "ids", tmp_path / "b") == (3, 0)
    write_jsonl(samples, [row | {"finished": False} for row in rows])
    with pytest.raises(UserError, match="nothing to export; 4 samples are unfinished"):
        export_stage(samples, "ids", tmp_path / "c", finished=True)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("row", "form", "message"),
    [
        ({"prompt": "x", "completion": "y"}, "ids", "s.jsonl:1: no token ids"),
        ({"prompt": "x"}, "messages", "s.jsonl:1: no `completion`"),
        ({"completion": "y"}, "messages", "s.jsonl:1: neither"),
        ({"completion": "y"}, "parquet", "must be one of messages, ids"),
    ],
)
def test_bad_samples_are_one_line(row, form, message, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        export_stage(path, form, tmp_path / "o")
    with pytest.raises(UserError, match="is the file of the samples"):
        export_stage(path, "ids", path)


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_trl_takes_them_as_they_are_and_has_the_same_loss(samples, rows, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import load_dataset

    export_stage(samples, "ids", tmp_path / "ids.jsonl")
    data = load_dataset("json", data_files=str(tmp_path / "ids.jsonl"), cache_dir=str(tmp_path))
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "max_length": None}
    trainer = trl.SFTTrainer(
        model=load_model(bundled_checkpoint()),
        args=trl.SFTConfig(**settings, per_device_train_batch_size=4),
        train_dataset=data["train"],
        processing_class=load_tokenizer("tiny"),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    ours = collate([example(row) for row in rows])
    assert int((batch["labels"] != -100).sum()) == int((ours["labels"] != -100).sum())
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        wanted = load_model("tiny")(**ours).loss
    assert float(theirs) == pytest.approx(float(wanted), abs=1e-5)

"""Step 2 of SSD: ordinary supervised fine-tuning on the raw samples (paper section 1).

The loop, the optimiser and everything distributed are transformers' Trainer.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ssd_probe.core.config import TrainConfig
from ssd_probe.errors import UserError

IGNORED = -100  # label of the prompt's tokens: only the completion has a loss


def train(
    model: Any, tokenizer: Any, rows: Sequence[dict], config: TrainConfig, out: Path
) -> list[dict]:
    """Fine-tune `model` on `rows` (`prompt_ids`, `completion_ids`) and save it to `out`.

    Loss: token cross-entropy on the completion, in nats. Writes `out`/metrics.jsonl and the
    checkpoint (Hugging Face format, safetensors); returns the metrics. With `save_steps`, an
    interrupted run goes on from its last checkpoint in `out`/trainer.
    Errors: `UserError` if no sample has token ids or all are longer than `max_length`.
    """
    dataset = _examples(rows, config.max_length, model.get_input_embeddings().weight.shape[0])
    work = out / "trainer"
    trainer = Trainer(
        model=model,
        args=_arguments(config, work),
        train_dataset=dataset,  # type: ignore[arg-type]
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=[_Metrics(out / "metrics.jsonl")],
    )
    trainer.remove_callback(PrinterCallback)  # `_Metrics` shows progress, on stderr
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    resumable = config.save_steps > 0 and any(work.glob("checkpoint-*"))
    model.config.use_cache = False
    trainer.train(resume_from_checkpoint=resumable)
    model.config.use_cache = True
    model.eval()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _examples(rows: Sequence[dict], max_length: int, vocabulary: int) -> list[dict]:
    examples = []
    for row in rows:
        prompt, completion = (
            _ids(row, key, vocabulary) for key in ("prompt_ids", "completion_ids")
        )
        ids = prompt + completion
        if completion and len(ids) <= max_length:
            labels = [IGNORED] * len(prompt) + completion
            examples.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    if not examples:
        raise UserError(
            f"nothing to train on: no sample has a completion and at most {max_length} tokens"
        )
    return examples


def _ids(row: dict, key: str, vocabulary: int) -> list[int]:
    name, ids = row.get("sample_id", "?"), row.get(key)
    if ids is None:
        raise UserError(f"sample {name}: no token ids; make samples with `ssd-probe sample`")
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocabulary for i in ids):
        raise UserError(
            f"sample {name}: `{key}` must be a list of token ids from 0 to below {vocabulary}, the "
            "model's vocabulary; were they made with another model's tokenizer?"
        )
    return ids


def _arguments(config: TrainConfig, work: Path) -> TrainingArguments:
    cpu, ranks = not torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and ranks > 1 else None,  # else each rank trains alone
        ddp_find_unused_parameters=False,
        output_dir=str(work),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.min_lr_ratio},
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        bf16=config.bf16,
        logging_steps=10,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=2,
        seed=config.seed,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=True,
    )


class _Metrics(TrainerCallback):
    """One JSON line a log entry as it happens, and a progress bar."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if state.global_step == 0:
            self.path.write_text("")
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=f"training {self.path.parent.name}",
            disable=None if state.is_world_process_zero else True,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}")
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

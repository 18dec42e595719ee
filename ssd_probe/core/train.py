"""Step 2 of SSD: ordinary supervised fine-tuning on the raw samples (paper section 1).

The loop, the optimiser and everything distributed are transformers' Trainer.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ssd_probe.core.config import TrainConfig
from ssd_probe.core.loss import completion_loss
from ssd_probe.errors import UserError
from ssd_probe.files.writing import strict_json
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import token_ids

IGNORED = -100  # label of the prompt's tokens: only the completion has a loss


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict],
    config: TrainConfig,
    out: Path,
    watch: Callable[[Trainer], TrainerCallback] | None = None,
) -> list[dict]:
    """Fine-tune `model` on `rows` (`prompt_ids`, `completion_ids`) and save it to `out`.

    Loss: token cross-entropy on the completion, in nats (`CompletionLoss`; the model's own where
    that does not know its output layer, or weights are sharded). Writes `out`/metrics.jsonl and the
    checkpoint (Hugging Face format, safetensors); returns the metrics. With `save_steps`, an
    interrupted run goes on from its last checkpoint in `out`/trainer. Samples that do not fit are
    left out, and counted on stderr; see `fitting`. `watch` makes a callback for the trainer.
    Errors: `UserError` if no sample has token ids, or none fits.
    """
    fit, dropped = fitting(rows, model, config)
    if not fit:
        raise UserError(f"nothing to train on: {listed(len(rows), dropped)}")
    if dropped and os.environ.get("RANK", "0") == "0":
        print(f"training: {listed(len(rows), dropped)}", file=sys.stderr)
    work = out / "trainer"
    pad = tokenizer.pad_token_id or 0
    loss = completion_loss(model, torch.bfloat16 if config.bf16 else None)
    trainer = Trainer(
        model=model,
        compute_loss_func=loss,
        args=_arguments(config, work, config.steps(len(fit), world())),
        train_dataset=[_example(row) for row in fit],  # type: ignore[arg-type]
        data_collator=partial(collate, pad=pad if pad < input_rows(model) else 0),
        callbacks=[_Metrics(out / "metrics.jsonl")],
    )
    if loss and _in_pieces(trainer):
        loss = trainer.compute_loss_func = None
    trainer.remove_callback(PrinterCallback)  # `_Metrics` shows progress, on stderr
    if watch is not None:
        trainer.add_callback(watch(trainer))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    resumable = config.save_steps > 0 and any(work.glob("checkpoint-*"))
    cached, model.config.use_cache = getattr(model.config, "use_cache", None), False
    with loss.installed() if loss else nullcontext():
        trainer.train(resume_from_checkpoint=resumable)
    model.config.use_cache = cached
    model.eval()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _in_pieces(trainer: Trainer) -> bool:
    """Whether the output layer is sharded or copied: its loss is then the model's own affair."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.args.n_gpu > 1


def fitting(
    rows: Sequence[dict], model: Any, config: TrainConfig
) -> tuple[list[dict], dict[str, int]]:
    """The samples that can be trained on; how many others there are, by what is wrong with them.

    `UserError` for a sample without token ids, or with ids that the model does not know.
    """
    vocabulary, context = input_rows(model), context_length(model)
    longest = min(config.max_length, context or config.max_length)
    what = "the model's context" if longest == context else "max_length"
    fit, dropped = [], Counter[str]()
    for row in rows:
        prompt, completion = (
            token_ids(row, key, vocabulary) for key in ("prompt_ids", "completion_ids")
        )
        if not completion:
            dropped["empty"] += 1
        elif config.drop_unfinished and row.get("finished") is False:
            dropped["cut by their length"] += 1
        elif len(prompt) + len(completion) > longest:
            dropped[f"longer than {longest} tokens, {what}"] += 1
        else:
            fit.append(row)
    return fit, dict(dropped)


def listed(count: int, dropped: dict[str, int]) -> str:
    """How many of `count` samples are left out, and why."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
    return f"{sum(dropped.values())} of {count} samples left out ({reasons or 'there are none'})"


def _example(row: dict) -> dict:
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    ids = prompt + completion
    labels = [IGNORED] * len(prompt) + completion
    return {"input_ids": ids, "labels": labels, "length": len(ids)}


def collate(examples: Sequence[dict], pad: int = 0) -> dict[str, Tensor]:
    """A batch [B, L], padded on the right whatever the tokenizer says.

    There a sequence's positions count from its own beginning, and nothing sees the padding.
    """

    def stacked(name: str, filler: int) -> Tensor:
        rows = [torch.tensor(example[name]) for example in examples]
        return pad_sequence(rows, batch_first=True, padding_value=filler)

    ones = [torch.ones(len(example["input_ids"]), dtype=torch.long) for example in examples]
    mask = pad_sequence(ones, batch_first=True)
    ids, labels = stacked("input_ids", pad), stacked("labels", IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def world() -> int:
    """How many devices share a step's batch."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return ranks if ranks > 1 else max(1, torch.cuda.device_count())


def _arguments(config: TrainConfig, work: Path, steps: int) -> TrainingArguments:
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
        warmup_steps=config.warmup(steps),
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
                file.write(strict_json({"step": state.global_step, **logs}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

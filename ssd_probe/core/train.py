"""Step 2 of SSD: ordinary supervised fine-tuning on the raw samples (paper section 1).

The loop, the optimiser and everything distributed are transformers' Trainer.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_callback import PrinterCallback

from ssd_probe.core.config import TrainConfig
from ssd_probe.core.loss import CompletionLoss, completion_loss
from ssd_probe.core.training.adapters import with_lora
from ssd_probe.core.training.batches import collator, example, fitting, listed
from ssd_probe.core.training.progress import Metrics
from ssd_probe.core.training.resuming import EpochOrder, last_whole
from ssd_probe.errors import UserError
from ssd_probe.files.writing import as_umask_says

TRAINER = "trainer"  # the folder of resumable checkpoints
_NAMES = TrainingArguments.__dataclass_fields__  # transformers 6 has the first alone
_CHECKPOINTING = next(f"{n}_checkpointing" for n in ("activation", "gradient")
                      if f"{n}_checkpointing" in _NAMES)  # fmt: skip


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict],
    config: TrainConfig,
    out: Path,
    watch: Callable[[Trainer], TrainerCallback] | None = None,
    arguments: TrainingArguments | None = None,
) -> list[dict]:
    """Fine-tune `model` on `rows` (`prompt_ids`, `completion_ids`) and save it to `out`.

    Loss: token cross-entropy on the completion, in nats (`CompletionLoss`; the model's own where
    that does not know its output layer, or DeepSpeed has parted it). Writes `out`/metrics.jsonl and
    the checkpoint (Hugging Face format, safetensors; of a LoRA the adapter); returns the metrics.
    With `save_steps`, an interrupted run goes on from its last whole checkpoint in `out`/trainer,
    to the weights of an undisturbed one. Samples that do not fit are left out, and counted on
    stderr; see `fitting`. `watch` makes a callback for the trainer. `arguments`: of `arguments_of`,
    for models that were loaded in parts, which has to begin with them.
    Errors: `UserError` if no sample has token ids, or none fits.
    """
    fit, dropped = fitting(rows, model, config)
    if not fit:
        raise UserError(f"nothing to train on: {listed(len(rows), dropped)}")
    if dropped and os.environ.get("RANK", "0") == "0":
        print(f"training: {listed(len(rows), dropped)}", file=sys.stderr)
    arguments = arguments or arguments_of(config, out)
    arguments.warmup_steps = config.warmup(config.steps(len(fit), world()))
    collate = collator(model, tokenizer.pad_token_id or 0, config.packing)
    if config.lora_rank:
        model = with_lora(model, config)
    work, processes = out / TRAINER, arguments.world_size
    resumed = last_whole(work, processes) if config.save_steps else None
    loss = _loss(model, config)
    _attend(model, config)
    trainer = Trainer(
        model=model,
        compute_loss_func=loss,
        args=arguments,
        train_dataset=[example(row) for row in fit],  # type: ignore[arg-type]
        data_collator=collate,
        callbacks=[Metrics(out / "metrics.jsonl"), EpochOrder(resumed, arguments.process_index)],
    )
    if loss and _in_pieces(trainer):
        loss = trainer.compute_loss_func = None
    if is_deepspeed_zero3_enabled():  # else no weights are in the checkpoint
        parted = trainer.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        parted["stage3_gather_16bit_weights_on_model_save"] = True
    trainer.remove_callback(PrinterCallback)  # `Metrics` shows progress, on stderr
    if watch is not None:
        trainer.add_callback(watch(trainer))
    cached, model.config.use_cache = getattr(model.config, "use_cache", None), False
    with loss.installed() if loss else nullcontext():
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    model.config.use_cache = cached
    model.eval()
    _save(trainer, out)
    tokenizer.save_pretrained(out)
    if trainer.is_world_process_zero():
        as_umask_says(out)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _attend(model: Any, config: TrainConfig) -> None:
    """Switch to flash attention, which the CPU's tries of layer and packing cannot have had."""
    if not config.flash:
        return
    try:
        model.set_attn_implementation(config.attn)
    except (ImportError, ValueError) as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(f"attn = {config.attn!r}: not to be had here ({why})") from None


def _save(trainer: Trainer, out: Path) -> None:
    """The checkpoint. FSDP2's parts are gathered by the first process, whatever the config says."""
    if not (trainer.is_fsdp_enabled and trainer.accelerator.is_fsdp2):
        trainer.save_model(str(out))
        return
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    optimizer: Any = trainer.optimizer
    optimizer.state.clear()  # the whole weights take their place
    whole = {}
    for name, value in model.state_dict().items():
        tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
        if trainer.is_world_process_zero():
            whole[name] = tensor.cpu()
    if trainer.is_world_process_zero():
        model.save_pretrained(out, state_dict=whole)


def _loss(model: Any, config: TrainConfig) -> CompletionLoss | None:
    """`completion_loss`, as the process with the weights finds it."""
    from accelerate.utils import broadcast_object_list

    if is_deepspeed_zero3_enabled():  # see `_in_pieces`
        return None
    half = torch.bfloat16 if config.half else None
    if os.environ.get("ACCELERATE_USE_FSDP", "false") != "true" or world() == 1:
        return completion_loss(model, half)
    first = os.environ.get("RANK", "0") == "0"
    loss = completion_loss(model, half) if first else None
    form = broadcast_object_list([loss and (loss.head.scale, loss.head.softcap)])[0]
    if first or form is None:
        return loss
    scale, softcap = form
    return CompletionLoss.of(model, scale, softcap, half)


def _in_pieces(trainer: Trainer) -> bool:
    """Whether the output layer is not whole when the loss is computed: then the model's own is.

    DeepSpeed gathers a layer within its own forward alone, and nn.DataParallel copies it. FSDP2
    keeps the output layer gathered from forward to backward; the older FSDP does not.
    """
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        return True
    return trainer.is_deepspeed_enabled or trainer.args.n_gpu > 1


def world() -> int:
    """How many devices share a step's batch."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return ranks if ranks > 1 else max(1, torch.cuda.device_count())


def arguments_of(config: TrainConfig, out: Path) -> TrainingArguments:
    """The recipe as the Trainer's arguments; made, they join the other processes.

    Errors: `UserError` where what is to be reported to is not installed.
    """
    reports = [] if config.report_to == "none" else [config.report_to]
    for name in reports:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to = {name!r}: {name} is missing; pip install {name}")
    checkpointing: dict[str, Any] = {_CHECKPOINTING: config.gradient_checkpointing}
    cpu, ranks = not torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and ranks > 1 else None,  # else each rank trains alone
        ddp_find_unused_parameters=False,
        output_dir=str(out / TRAINER),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        weight_decay=config.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.min_lr_ratio},
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        bf16=config.half,
        **checkpointing,
        logging_steps=10,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=2,
        seed=config.seed,
        report_to=reports,
        run_name=out.name,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=True,
    )

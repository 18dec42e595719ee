"""How samples are drawn and how a model is fine-tuned on them: every setting, default and limit."""

import dataclasses
import math
from typing import Any

from ssd_probe.config_fields import SEEDS, check_limits, setting
from ssd_probe.errors import UserError

DTYPES = ("float32", "bfloat16")  # of a training
REPORTS = ("none", "tensorboard", "wandb", "trackio")
BY_LENGTH = "cut by their length"  # why samples were left out of a training, in its record


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How many samples and how long; how each token is drawn is a `Policy`.

    `batch_size` bounds memory; a sample does not depend on it, but for rounding.
    """

    n: int = setting(1, "Samples a prompt.", least=1)
    max_new_tokens: int = setting(512, "Longest answer, in tokens.", least=1)
    batch_size: int = setting(64, "Answers at a time.", least=1)
    seed: int = setting(0, "Names the streams of random numbers.", least=0, most=SEEDS)

    def __post_init__(self) -> None:
        check_limits(self)

    def recorded(self) -> dict[str, Any]:
        """What the samples depend on."""
        settings = dataclasses.asdict(self)
        del settings["batch_size"]
        return settings


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The paper's recipe by default (appendix): AdamW (0.9, 0.95), decay 0.1, cosine to lr / 5."""

    learning_rate: float = setting(5e-6, "Peak of the cosine schedule.", least=0)
    epochs: float = setting(1.0, "Passes over the samples.", least=0)
    max_steps: int = setting(-1, "End after so many steps; -1: by epochs.", least=-1)
    batch_size: int = setting(32, "Samples at a time, on each device.", least=1)
    gradient_accumulation: int = setting(1, "Batches a step.", least=1)
    warmup_steps: int | None = setting(
        None, "Steps until the peak; by default 50, but a tenth of the steps at most.", least=0
    )
    weight_decay: float = setting(0.1, "Of AdamW.", least=0)
    min_lr_ratio: float = setting(0.2, "Last learning rate, over the peak.", least=0, most=1)
    max_length: int = setting(65_536, "Longer samples are left out.", least=1)
    drop_unfinished: bool = setting(False, "Leave out samples that were cut by their length.")
    save_steps: int = setting(0, "Keep resumable checkpoints; 0: none.", least=0)
    bf16: bool = setting(False, "Short for --dtype bfloat16.")
    gradient_checkpointing: bool = setting(False, "Less memory, more time.")
    seed: int = setting(0, "Of the order of the samples.", least=0, most=SEEDS)
    dtype: str = setting(
        "float32", "Of the computation: float32, bfloat16; weights that are trained are float32."
    )
    attn: str | None = setting(None, "eager, sdpa, flash_attention_2 ...; default: the model's.")
    packing: bool = setting(False, "Samples end to end, without padding, and apart.")
    lora_rank: int = setting(0, "Train adapters of this rank (peft); 0: all weights.", least=0)
    lora_alpha: int | None = setting(None, "Of the adapters; default: twice the rank.", least=1)
    report_to: str = setting("none", "tensorboard, wandb or trackio.")

    def __post_init__(self) -> None:
        check_limits(self)
        for name, known in (("dtype", DTYPES), ("report_to", REPORTS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r}: one of {', '.join(known)}")
        if self.max_steps == 0:
            raise UserError("max_steps = 0: must be at least 1, or -1 to train by epochs")
        if self.max_steps < 0 and self.epochs == 0:
            raise UserError("epochs = 0: nothing would be trained; must be above 0")

    @property
    def half(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.bf16 or self.dtype == "bfloat16"

    @property
    def flash(self) -> bool:
        """Whether it attends by kernels of GPUs alone."""
        return (self.attn or "").startswith("flash")

    def recorded(self) -> dict[str, Any]:
        """What the weights depend on; the newer settings, which older records lack, where used."""
        settings = dataclasses.asdict(self)
        del settings["report_to"]
        new = {"dtype", "attn", "packing", "lora_rank", "lora_alpha"}
        plain = {each.name: each.default for each in dataclasses.fields(self)}
        return {k: v for k, v in settings.items() if k not in new or v != plain[k]}

    def steps(self, samples: int, devices: int = 1) -> int:
        """How many the training has, as transformers' Trainer counts them."""
        if self.max_steps > 0:
            return self.max_steps
        batches = math.ceil(samples / (self.batch_size * devices))
        return math.ceil(self.epochs * math.ceil(batches / self.gradient_accumulation))

    def warmup(self, steps: int) -> int:
        """How many of `steps` are warm-up: as given, else the paper's 50 or a tenth of them."""
        return min(50, steps // 10) if self.warmup_steps is None else self.warmup_steps

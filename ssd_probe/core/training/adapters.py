"""LoRA through peft: a few new weights are trained, the model's own stay as they are."""

import warnings
from pathlib import Path
from typing import Any

from ssd_probe.core.config import TrainConfig
from ssd_probe.errors import UserError


def with_lora(model: Any, config: TrainConfig) -> Any:
    """The model with low-rank adapters at all its linear layers but the last, in float32.

        W + (alpha / r) B A,   A [r, in], B [out, r]

    Errors: `UserError` without peft, and for a model that has adapters already.
    Source: Hu et al. 2021, arXiv 2106.09685.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora_rank: peft is missing; pip install 'ssd-probe[lora]'") from None
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise UserError("lora_rank: the model is an adapter itself; merge it into its base first")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's, of transformers 6
        made = get_peft_model(model, lora)
    base = Path(str(model.name_or_path)).expanduser()
    if base.is_dir():  # found again from any folder
        made.peft_config["default"].base_model_name_or_path = str(base.resolve())
    return made

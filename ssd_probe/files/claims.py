"""Who is writing an output now: locks of the kernel, and the ranks that share a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ssd_probe.errors import UserError


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


def is_foreign(output: Path, record: Path) -> bool:
    """Whether a folder holds what no record tells of. A lock that a refused try left is nothing."""
    if record.exists() or not output.is_dir():
        return False
    return any(not each.name.startswith(".lock") for each in output.iterdir())


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Wait for the other ranks' turns to read and write a folder's record."""
    with _open_lock(folder, folder / ".lock-record") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_held(output: Path, rank: int) -> bool:
    """Whether a process holds this rank's share of a folder now."""
    path = output / f".lock-rank-{rank}"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


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

"""Append-only parts of a folder: each whole or absent, whatever ends the process that writes it.

A part is written under a temporary name, synced, renamed, and then sealed in the same way by a
manifest beside it, `part-00012.json`: {..., rows, bytes, sha256}. It counts only with its manifest.
`partial-00012` is what there is of a part that a run was asked to stop in.
"""

import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssd_probe.errors import Resumable
from ssd_probe.files.digests import file_digest
from ssd_probe.files.writing import atomic_path, disk_is_full, write_json

# A part is what a machine that loses power has to do again, and what a reader holds in memory.
TEXTS_PER_PART = 64
POSITIONS_PER_PART = 2**17
_TEMPORARY = re.compile(r"\.(?:part|partial)-(\d+)\.(?:parquet|json)\..*tmp")


class Damaged(Exception):
    """A file is not what its manifest says; the message is how."""


def plan(positions: Sequence[int]) -> list[range]:
    """Which texts are in which part, by how many positions each text has."""
    parts, start, held = [], 0, 0
    for i, count in enumerate(positions):
        if i - start == TEXTS_PER_PART or (i > start and held + count > POSITIONS_PER_PART):
            parts.append(range(start, i))
            start, held = i, 0
        held += count
    return [*parts, range(start, len(positions))]


def part_file(folder: Path, number: int, kind: str = "part") -> Path:
    return folder / f"{kind}-{number:05d}.parquet"


def seal(file: Path, write: Callable[[Path], object], **about: Any) -> None:
    """Make `file` by `write(path)` and then its manifest: `about`, size and checksum."""
    manifest = file.with_suffix(".json")
    with atomic_path(file) as temporary:
        write(temporary)
        sums = {"bytes": temporary.stat().st_size, "sha256": file_digest(temporary)}
        manifest.unlink(missing_ok=True)  # of another version of this file
    write_json(manifest, {**about, **sums})


def manifest_of(file: Path) -> dict:
    """What a sealed file's manifest says. Raises `Damaged` unless both are there, of that size."""
    try:
        manifest = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        size, promised = file.stat().st_size, manifest["bytes"]
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise Damaged(f"{file.with_suffix('.json').name} cannot be read") from None
    if size != promised:
        raise Damaged(f"{size} bytes, not {promised}")
    return manifest


def sealed(file: Path) -> dict | None:
    """The manifest of a file that is whole, every byte; else None, and what was there is removed.

    Damage is said on stderr; a file that was never sealed is the usual trace of a killed run.
    """
    try:
        manifest = manifest_of(file)
        if file_digest(file) != manifest.get("sha256"):
            raise Damaged("its bytes are not those that were written")
        return manifest
    except Damaged as reason:
        if file.with_suffix(".json").exists():
            print(f"{file}: damaged ({reason}); it is made again", file=sys.stderr)
        remove(file)
        return None


def remove(file: Path) -> None:
    """Remove a part and its manifest; in this order no moment looks like damage."""
    file.with_suffix(".json").unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def remove_temporaries(folder: Path, mine: Callable[[int], bool]) -> None:
    """Remove temporary files that a killed run left of the parts that are `mine`."""
    for path in folder.glob(".part*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and mine(int(match[1])):
            path.unlink(missing_ok=True)


@contextmanager
def resumable_when_full(folder: Path) -> Iterator[None]:
    """A full disk, or quota, is one line; what was being written is gone, sealed parts are not."""
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise Resumable(
                f"{folder}: the disk is full; free some space and run the same command to go on "
                "(the parts that are finished are kept)"
            ) from None
        raise


@contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """SIGTERM and Ctrl-C wait for a good moment: the block asks which signal came, None so far.

    A second signal acts as it did outside. In another thread than the main one nothing changes.
    """
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        came.append(signal.Signals(number).name)
        restore()

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    for each in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(each) not in (signal.SIG_IGN, None):  # None: not set by Python
            before[each] = signal.signal(each, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()

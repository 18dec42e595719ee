"""Files out, each whole or not at all."""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row


def disk_is_full(error: Exception) -> bool:
    """Or a quota. pyarrow and safetensors say so in words alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left on device", "quota exceeded"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write; renamed onto it, after fsync, if all went well.

    A reader, or a machine that loses power, sees the old file or the new one, never half of one.
    `UserError` for a device, a pipe or a folder: the rename would put a file in its place.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; give another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def as_umask_says(folder: Path) -> None:
    """Give a folder's files the permissions that new files have; safetensors' own are their
    owner's alone, and a shared model could not be read."""
    os.umask(umask := os.umask(0o022))  # there is no other way to ask
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o666 & ~umask)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(strict_json(row, ensure_ascii=False) + "\n" for row in rows)


def _null_for_nan(content: Any) -> Any:
    """The same content with None for NaN and infinities, which JSON does not have."""
    if isinstance(content, dict):
        return {key: _null_for_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_null_for_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def strict_json(content: object, **options: Any) -> str:
    """JSON that every parser takes: null for NaN and infinities."""
    return json.dumps(_null_for_nan(content), allow_nan=False, **options)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(strict_json(content, indent=2) + "\n", encoding="utf-8")

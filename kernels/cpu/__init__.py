"""The CPU backend: numba kernels over rows, in torch's own threads."""

from contextlib import suppress
from pathlib import Path


def drop_stale(folder: Path) -> None:
    """Remove numba's compiled code older than any source of the folder.

    numba compares a function with its own file only, not with those of the functions it calls.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        with suppress(OSError):  # not ours to remove, or removed by another process
            if index.stat().st_mtime < newest:
                index.unlink()


drop_stale(Path(__file__).parent)

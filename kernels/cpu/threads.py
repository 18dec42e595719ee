"""Rows over threads: those of torch's own OpenMP team, or Python's where torch has none.

After each operation torch's threads wait for the next one spinning, for milliseconds. Threads of
our own beside them would get but a share of the cores; in the team, the spinning ones do the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(function: Callable[[int, int], None], rows: int) -> None:
    """`function(begin, end)` over the rows, in torch's number of threads, this one being one.

    It should give the GIL up while it computes. Errors: the first that it raises.
    Not numba's `parallel=True`: its default layer aborts the process when two threads call at once.
    """
    threads = torch.get_num_threads()
    if threads == 1 or rows <= 1:
        function(0, rows)
        return
    # More pieces than threads, since other processes may slow one of them.
    pieces = min(rows, 8 * threads)
    edges = [rows * i // pieces for i in range(pieces + 1)]
    shares = iter(list(zip(edges[:-1], edges[1:], strict=True)))
    errors: list[BaseException] = []

    def work(_: int | None = None) -> None:
        try:
            for begin, end in shares:
                function(begin, end)
        except BaseException as error:  # ctypes would print it and go on
            errors.append(error)

    team = _openmp()
    if team is not None:
        team(_TASK(work), None, threads, 0)
    else:
        helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            helper.result()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def without_lost_threads() -> Iterator[None]:
    """In a forked process torch keeps to one thread: for the others it would wait for ever."""
    threads = torch.get_num_threads()
    if threads == 1 or not _forked():
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """`GOMP_parallel(task, data, threads, flags)` of the OpenMP library that torch has loaded.

    GCC's library has it, and LLVM's and Intel's for code that GCC compiled; macOS's has not.
    """
    if _forked() or os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None)


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads that stay: to start some takes as long as a few rows do."""
    return ThreadPoolExecutor(count)


@functools.cache
def _forked() -> bool:
    """Whether this process was forked from one that may have had threads, and started no program.

    Linux knows; elsewhere only a fork after this module's import is seen.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED_NO_EXEC)
    except OSError:
        return _seen_fork


_FORKED_NO_EXEC = 0x40  # of the flags in /proc/self/stat
_seen_fork = False


def _in_child() -> None:
    """A forked child has not the team's threads, for which OpenMP would wait, nor the pool's."""
    global _seen_fork
    _seen_fork = True
    for known in (_forked, _openmp, _pool):
        known.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

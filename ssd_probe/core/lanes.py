"""Run tasks side by side in processes of one thread each.

A small model's operations are too short to share between threads: two such processes sample 1.8
times as fast as one process with two threads (LOG.md). One thread also makes the numbers
independent of the machine's number of cores.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from ssd_probe.errors import Resumable
from ssd_probe.executors import belong_to_parent, processes

Run = Callable[..., None]


@contextmanager
def lanes(count: int = 2) -> Iterator[Run]:
    """`with lanes() as run: run(task, [(a, b), ...])` calls `task(a, b)`..., `count` at a time.

    `run` returns when all are done, and raises what a task raised; `run(task, arguments, done)`
    calls `done()` after each. Whatever ends the block early, or this process, ends the others.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(number)
    with processes(count, context, _enter, (numbers,)) as pool:
        yield partial(_run, pool)


def _run(
    pool: Executor,
    task: Callable[..., None],
    arguments: Iterable[tuple],
    done: Callable = lambda: None,
) -> None:
    for future in as_completed([pool.submit(task, *each) for each in arguments]):
        try:
            future.result()
        except BrokenProcessPool:
            raise Resumable(
                "one of the processes side by side was killed, perhaps for its memory; the "
                "same command goes on, and fewer processes need less"
            ) from None
        done()


@contextmanager
def side_by_side(processes: int) -> Iterator[Run]:
    """`lanes` for several processes; for one, this one, with all its threads."""
    if processes > 1:
        with lanes(processes) as run:
            yield run
    else:
        yield _one_by_one


def _one_by_one(
    task: Callable[..., None], arguments: Iterable[tuple], done: Callable = lambda: None
) -> None:
    for each in arguments:
        task(*each)
        done()


def _enter(numbers: Any) -> None:
    """Prepare a process: its own line for progress bars, one thread, Ctrl-C left to the parent."""
    belong_to_parent()
    os.environ["TQDM_POSITION"] = str(numbers.get())
    os.environ["TQDM_LEAVE"] = "0"
    import torch

    torch.set_num_threads(1)

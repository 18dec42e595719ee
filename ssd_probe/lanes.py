"""Run tasks side by side in processes of one thread each.

A small model's operations are too short to share between threads: two such processes sample 1.8
times as fast as one process with two threads (LOG.md). One thread also makes the numbers
independent of the machine's number of cores.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

Run = Callable[[Callable[..., None], Iterable[tuple]], None]


@contextmanager
def lanes(count: int = 2) -> Iterator[Run]:
    """`with lanes() as run: run(task, [(a, b), ...])` calls `task(a, b)`..., `count` at a time.

    `run` returns when all are done, and raises what a task raised. Whatever ends the block early
    also ends the processes.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(number)
    pool = ProcessPoolExecutor(count, context, initializer=_enter, initargs=(numbers,))

    def run(task: Callable[..., None], arguments: Iterable[tuple]) -> None:
        for future in [pool.submit(task, *each) for each in arguments]:
            future.result()

    try:
        yield run
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _enter(numbers: Any) -> None:
    """Prepare a process: its own line for progress bars, one thread, Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TQDM_POSITION"] = str(numbers.get())
    os.environ["TQDM_LEAVE"] = "0"
    import torch

    torch.set_num_threads(1)

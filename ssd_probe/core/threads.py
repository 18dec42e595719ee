"""How a model's work is spread over cores: several threads that compute by themselves.

A model's operations are short, and each that is shared between cores waits for the slowest, on a
busy machine for long. Threads of one process hold the weights once.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

SMALL = 4_000_000  # parameters, below which a second thread costs more than it computes
ROWS = 8  # of a batch that are worth a thread of their own
Item = TypeVar("Item")


def lane_count(model: Any, rows: int) -> int:
    """How many threads work on a batch of `rows`; one on other devices, and for a small model."""
    if model.device.type != "cpu" or is_small(model):
        return 1
    return max(1, min(torch.get_num_threads(), rows // ROWS))


def is_small(model: Any) -> bool:
    return model.device.type == "cpu" and model.num_parameters() < SMALL


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Torch computes on so many for the block, in this thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(works: Sequence[Iterable[Item]]) -> Iterator[Item]:
    """The items of several iterables as they come, each computed in a thread with its own cores.

    What one of them raises is raised here. Whatever ends the loop early ends them all, each after
    the item it is at.
    """
    if len(works) == 1:
        yield from works[0]
        return
    done, stop = SimpleQueue[Any](), threading.Event()

    def compute(work: Iterable[Item], count: int) -> None:
        end: Any = None
        try:
            with cores(count):
                for item in work:
                    done.put((item, None))
                    if stop.is_set():
                        break
        except BaseException as error:
            end = error
        done.put((compute, end))

    share = max(1, torch.get_num_threads() // len(works))
    threads = [threading.Thread(target=compute, args=(w, share), daemon=True) for w in works]
    with cores(torch.get_num_threads()):  # what threads to come begin with is this thread's again
        for thread in threads:
            thread.start()
        try:
            left = len(threads)
            while left:
                item, error = done.get()
                if error is not None:
                    raise error
                if item is compute:
                    left -= 1
                else:
                    yield item
        finally:
            stop.set()
            for thread in threads:
                thread.join()

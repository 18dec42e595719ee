"""Time limits that a busy machine does not shorten.

A limit in seconds by the clock makes a verdict depend on what else the machine does: with a
twentieth of a core, a program of half a second takes ten. What a process spent ready to run but
without a processor is counted by Linux (`/proc/PID/schedstat`), and is given back here.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Processes = Callable[[], Iterable[int]]


class Deadline:
    """`seconds` from now, not counting how long `processes` and this thread waited to be run.

    processes: pids as this machine counts, asked for anew each time; those that began later
    count from their beginning. They are taken to work in turns: where two of them waited at once,
    both waits are given back. Where the kernel does not count, the limit is by the clock.
    """

    def __init__(self, seconds: float, processes: Processes = tuple):
        self._processes = processes
        self._end = time.monotonic() + seconds
        self._before = {pid: waited(pid) for pid in processes()}
        self._seen = waited(threading.get_native_id())

    def left(self, idle: bool = False) -> float:
        """Seconds; 0 or less when the time is up.

        idle: since the last call nothing came. Then this thread waited only to see that.
        """
        mine = waited(threading.get_native_id())
        self._end += 0.0 if idle else mine - self._seen
        self._seen = mine
        left = self._end - time.monotonic()
        if left > 0:
            return left
        return left + sum(waited(pid) - self._before.get(pid, 0.0) for pid in self._processes())


def waited(pid: int) -> float:
    """Seconds that a process (its first thread, or a thread by its id) was ready and not run."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def children(pid: int) -> list[int]:
    """Of the first thread of a process; none where the kernel does not say."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []

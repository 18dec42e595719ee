"""Time limits that a busy machine does not shorten.

A limit in seconds by the clock makes a verdict depend on what else the machine does: with a
twentieth of a core, a program of half a second takes ten. What a process spent ready to run but
without a processor is counted by Linux (`/proc/PID/schedstat`), and is given back here.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable

Processes = Callable[[], Iterable[int]]


class Deadline:
    """`seconds` from now, not counting how long `processes` and this thread waited to be run.

    processes: pids as this machine counts, asked for anew each time; those that began later
    count from their beginning. They are taken to work in turns: where two of them waited at once,
    both waits are given back. Where the kernel does not count, the limit is by the clock. The
    kernel is asked at the beginning, and when the time by the clock is up.
    """

    def __init__(self, seconds: float, processes: Processes = tuple):
        self._processes = processes
        self._before = {pid: waited(pid) for pid in processes()}
        self._mine = waited(threading.get_native_id())
        self._looked = time.monotonic()
        self._left = seconds
        self._end = self._looked + seconds

    def left(self, idle: bool = False) -> float:
        """Seconds; 0 or less when the time is up.

        idle: nothing came within what the last call said was left. Then what this thread took
        beyond that, it took only to see that.
        """
        now = time.monotonic()
        if idle:
            self._mine += max(0.0, now - self._looked - max(0.0, self._left))
        self._looked = now
        self._left = self._end - now
        if self._left <= 0:
            own = max(0.0, waited(threading.get_native_id()) - self._mine)
            pids = self._processes()
            self._left += own + sum(waited(pid) - self._before.get(pid, 0.0) for pid in pids)
        return self._left


def waited(pid: int) -> float:
    """Seconds that a process (its first thread, or a thread by its id) was ready and not run."""
    try:
        return int(_read(f"/proc/{pid}/schedstat").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def children(pid: int) -> list[int]:
    """Of the first thread of a process; none where the kernel does not say."""
    try:
        return [int(p) for p in _read(f"/proc/{pid}/task/{pid}/children").split()]
    except (OSError, ValueError):
        return []


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)

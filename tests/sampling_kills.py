"""Kill sampling at random times: `python -m tests.sampling_kills FOLDER KILLS ENGINE`.

One warm process forks a child for each attempt. FOLDER/whole.jsonl is never disturbed; 0.jsonl,
1.jsonl ... are, until there were KILLS. With the server engine the fake server is a process of its
own, which one kill in three hits: it comes back at the same port, and the child goes on. Prints how
many kills of either there were.
"""

import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ssd_probe.commands.sample import sample_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import Choice
from ssd_probe.errors import Resumable
from ssd_probe.models.identity import Checkpoint
from tests.fake_server import FakeServer

CONFIG = SampleConfig(n=2, max_new_tokens=32, batch_size=4)


def serve() -> int:
    """A server at PORT in a child; its process id, once it listens."""
    if pid := os.fork():
        while not listening():
            time.sleep(0.02)
        return pid
    with SERVER:
        time.sleep(1e6)
    os._exit(0)


def listening() -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", PORT)) == 0


def make(path: Path) -> None:
    sample_stage(TINY, "tiny:dev", Decoding(1.6, 20, 0.8), path, CONFIG, limit=8, choice=CHOICE)


def attempt(path: Path) -> int:
    """Start sampling in a child; its process id."""
    if pid := os.fork():
        return pid
    try:
        make(path)
        os._exit(0)
    except Resumable:  # the server is away
        os._exit(75)
    finally:
        os._exit(1)


def kill_until_finished(path: Path) -> int:
    """How often the child, or the server under it, was killed. Longer times after no progress."""
    global server
    kills, longest, seen, child = 0, 0.4, 0, attempt(path)
    while True:
        time.sleep(random.uniform(0, longest))
        if server is not None and random.random() < 1 / 3:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            server = serve()
            kills += 1
            continue
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) in (0, 75), status
            if not os.WEXITSTATUS(status):
                return kills
        kills += os.WIFSIGNALED(status)
        part = path.with_name(path.name + ".part")
        drawn = len(part.read_bytes().splitlines()) if part.exists() else 0
        longest = min(20, max(0.4, longest * (0.7 if drawn > seen else 1.3)))
        seen, child = drawn, attempt(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is shared between forks
    base, wanted, TINY = Path(sys.argv[1]), int(sys.argv[2]), Checkpoint("tiny")
    server, CHOICE = None, Choice()
    if sys.argv[3] == "server":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            PORT = free.getsockname()[1]
        SERVER = FakeServer(port=PORT)
        server = serve()
        CHOICE = Choice("server", (f"http://127.0.0.1:{PORT}",))
    TINY.model, TINY.limits, TINY.is_chat  # noqa: B018 (warm, for the children)
    if pid := os.fork():  # in a child, so that no threads of a client are forked later
        assert os.waitpid(pid, 0)[1] == 0
    else:
        make(base / "whole.jsonl")
        os._exit(0)
    killed = number = 0
    while killed < wanted:
        killed += kill_until_finished(base / f"{number}.jsonl")
        number += 1
    if server is not None:
        os.kill(server, signal.SIGKILL)
    print(killed)

"""Kill probes at random times until they finish: `python -m tests.killing FOLDER KILLS RANKS`.

One warm process forks a child for each attempt, because importing torch takes seconds and a probe
of this size a fraction of one. FOLDER/whole is never disturbed; FOLDER/0, FOLDER/1 ... are, until
there were KILLS. Prints how many there were.
"""

import os
import random
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ssd_probe.files import parts
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import Text
from tests.models import tiny_model, tiny_tokenizer

LINES = Path(textwrap.__file__).read_text().splitlines(keepends=True)
TEXTS = [
    Text(f"{i}.py", f"{i}.py", None, None, "".join(LINES[i : i + 9 + i % 5]), kind="source")
    for i in range(0, 400, 8)
]


def make(folder: Path) -> None:
    probe(MODEL, TEXTS, folder, tokenizer=tiny_tokenizer(), top_k=8, batch_size=2)


def attempt(folder: Path, rank: int, world: int) -> int:
    """Start a probe in a child; its process id."""
    if pid := os.fork():
        return pid
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    try:
        make(folder)
        os._exit(0)
    finally:
        os._exit(1)


def kill_until_finished(folder: Path, world: int) -> int:
    """Each attempt of a rank gets a random time, and is started again; how many were killed.

    The time is that of a part or so: longer after attempts that made none, as on a busy machine.
    """
    kills, longest, sealed = 0, 0.15, 0
    running = {rank: attempt(folder, rank, world) for rank in range(world)}
    while running:
        rank = random.choice(list(running))
        time.sleep(random.uniform(0, longest))
        os.kill(running[rank], signal.SIGKILL)
        status = os.waitpid(running[rank], 0)[1]
        if os.WIFSIGNALED(status):
            kills += 1
            before, sealed = sealed, len(list(folder.glob("part-*.json")))
            longest = min(5, max(0.15, longest * (0.7 if sealed > before else 1.2)))
            running[rank] = attempt(folder, rank, world)
        else:
            assert os.WEXITSTATUS(status) == 0
            del running[rank]
    return kills


if __name__ == "__main__":
    torch.set_num_threads(1)
    # tqdm's own is shared between forks: a child killed within it would block all later ones.
    tqdm.set_lock(threading.RLock())
    parts.TEXTS_PER_PART = 3
    MODEL = tiny_model("qwen3")
    base, wanted, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    make(base / "whole")  # not in a child: what is made at first use is then warm
    killed = 0
    while killed < wanted:
        killed += kill_until_finished(base / str(len(list(base.iterdir())) - 1), world)
    print(killed)

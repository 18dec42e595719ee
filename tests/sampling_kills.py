"""Kill sampling at random times: `python -m tests.sampling_kills FOLDER KILLS ENGINE`.

One warm process forks a child for each attempt. FOLDER/whole.jsonl is never disturbed; 0.jsonl,
1.jsonl ... are, until there were KILLS, after which the last goes on to its end. ENGINE: `hf`;
`server`, a fake one in a process of its own, which one kill in three hits; `vllm`, whose process
every other kill hits; `vllm-server`, a real one, the same. A server comes back at the same port,
and the child goes on. What takes long to load is killed at a random time after its first new
answer. Prints how many kills each of them had.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from tqdm import tqdm

from ssd_probe.commands.sample import sample_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import Choice
from ssd_probe.errors import Resumable
from ssd_probe.models.checkpoints import bundled_checkpoint
from ssd_probe.models.identity import Checkpoint
from tests.fake_server import FakeServer
from tests.serving import LEAN, VllmServer, free_port, listening

ROOT = Path(__file__).parents[1]
AWAY = 75  # what a child ends with where what it asks is away


def check(folder: Path, kills: int, engine: str) -> None:
    """Nothing is lost or doubled: every run is the undisturbed one, byte for byte."""
    command = [sys.executable, "-m", "tests.sampling_kills", str(folder), str(kills), engine]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(map(int, done.stdout.split()[1::2])) >= kills, done.stdout
    whole = (folder / "whole.jsonl").read_bytes()
    runs = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
    assert runs and all(path.read_bytes() == whole for path in runs)
    assert not list(folder.glob("*.part"))


class Fake:
    """The fake server, in a child."""

    def __init__(self) -> None:
        self.server = FakeServer(port=free_port())
        self.url = self.server.url

    def start(self) -> None:
        if pid := os.fork():
            self.pid = pid
            while not listening(self.server.port):
                time.sleep(0.02)
            return
        with self.server:
            time.sleep(1e6)
        os._exit(0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def make(path: Path) -> None:
    sample_stage(TINY, "tiny:dev", Decoding(1.6, 20, 0.8), path, CONFIG, limit=8, choice=CHOICE)


def attempt(path: Path) -> int:
    """Start sampling in a child; its process id."""
    if pid := os.fork():
        return pid
    try:
        make(path)
        os._exit(0)
    except Resumable:  # the server is away, or vLLM's process
        os._exit(AWAY)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def drawn(path: Path) -> int:
    part = path.with_name(path.name + ".part")
    return len(part.read_bytes().splitlines()) if part.exists() else 0


def ended(child: int) -> bool:
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, how) is not None


def below(child: int) -> list[int]:
    """vLLM's process and its own, of a child that samples by it."""
    with suppress(OSError):
        said = [file.read_text() for file in Path(f"/proc/{child}/task").glob("*/children")]
        return [pid for one in said for own in one.split() for pid in (int(own), *below(int(own)))]
    return []


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill_until_finished(path: Path, most: int) -> Counter:
    """How often what was killed, `most` times or so. Longer times after no progress."""
    kills: Counter = Counter()
    longest, seen, child = 0.4, 0, attempt(path)
    while kills.total() < most:
        while SLOW and drawn(path) == seen and not ended(child):
            time.sleep(0.01)
        time.sleep(random.uniform(0, longest))
        below_it, other = below(child), random.random() < OTHER
        if SERVER is not None and other:
            SERVER.kill()
            SERVER.start()
            kills["server"] += 1
            seen = drawn(path)
            continue
        if below_it and other:  # the child then ends by itself
            with suppress(ProcessLookupError):
                os.kill(below_it[0], signal.SIGKILL)
            kills["vllm"] += 1
        else:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        end = time.monotonic() + 120
        while not all(map(gone, below_it)):
            assert time.monotonic() < end, "vLLM outlives what started it"
            time.sleep(0.1)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) in (0, AWAY), status
            if not os.WEXITSTATUS(status):
                return kills
        kills["client"] += os.WIFSIGNALED(status)
        now = drawn(path)
        longest = min(20, max(0.4, longest * (0.7 if now > seen else 1.3)))
        seen, child = now, attempt(path)
        print(path.stem, now, dict(kills), file=sys.stderr, flush=True)
    status = os.waitpid(child, 0)[1]
    if os.waitstatus_to_exitcode(status) == AWAY:  # it began while the last kill hit what it asks
        status = os.waitpid(attempt(path), 0)[1]
    assert status == 0, os.waitstatus_to_exitcode(status)
    return kills


if __name__ == "__main__":
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is shared between forks
    base, wanted, engine = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    TINY, SLOW, SERVER = Checkpoint("tiny"), engine.startswith("vllm"), None
    OTHER = 1 / 2 if SLOW else 1 / 3  # of the kills hit what the child asks
    CONFIG = SampleConfig(n=2, max_new_tokens=32, batch_size=4)
    if SLOW:
        os.environ |= LEAN
        CONFIG = SampleConfig(n=8, max_new_tokens=64, batch_size=4)
    CHOICE = Choice(engine, arguments=("enforce_eager=true",)) if engine == "vllm" else Choice()
    if engine.endswith("server"):
        SERVER = VllmServer(bundled_checkpoint(), base / "log") if SLOW else Fake()
        SERVER.start()
        CHOICE = Choice("server", (SERVER.url,))
    try:
        TINY.model, TINY.limits, TINY.is_chat  # noqa: B018 (warm, for the children)
        if pid := os.fork():  # in a child, so that no threads of a client are forked later
            assert os.waitpid(pid, 0)[1] == 0
        else:
            make(base / "whole.jsonl")
            os._exit(0)
        killed: Counter = Counter()
        while killed.total() < wanted:
            path = base / f"{len(list(base.glob('[0-9]*.jsonl')))}.jsonl"
            killed += kill_until_finished(path, wanted - killed.total())
    finally:
        if SERVER is not None:
            SERVER.kill()
    print(*(f"{name} {count}" for name, count in killed.items()))

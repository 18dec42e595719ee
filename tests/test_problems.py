"""Problem formats: what each benchmark ships, as tasks; the program in an answer; refusals."""

import base64
import json
import os
import pickle
import textwrap
import zlib

import pytest

from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.problems import livecodebench
from ssd_probe.problems.fences import extract_code
from ssd_probe.problems.humaneval import humaneval
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import Task, lacks_code, load_tasks, program


def packed(tests, protocol=4):
    """As code_generation_lite stores private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests), protocol))).decode()


def case(given, wanted, kind="stdin"):
    return {"input": given, "output": wanted, "testtype": kind}


def lcb_row(name="abc301_a", **changes):
    row = {
        "question_title": "Sum",
        "question_content": "Print the sum of two numbers.",
        "platform": "atcoder",
        "question_id": name,
        "contest_id": "abc301",
        "contest_date": "2025-02-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([case("1 2\n", "3\n")]),
        "private_test_cases": packed([case("5 6\n", "11"), case("é 0\n", "")]),
        "metadata": "{}",
    }
    return row | changes


FUNCTION = {
    "starter_code": "class Solution:\n    def f(self, xs: List[int], k: int) -> bool:\n        ",
    "difficulty": "hard",
    "metadata": json.dumps({"func_name": "f"}),
    "public_test_cases": json.dumps([case("[1, 2]\n3", "true", "functional")]),
    "private_test_cases": json.dumps([case('["a\\n"]\n-1', "[1.5, null]", "functional")]),
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_livecodebench_programs_and_functions(tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(), lcb_row("3779", **FUNCTION))
    whole, function = load_tasks(path).values()
    assert (whole.problem_id, whole.difficulty, whole.kind) == ("abc301_a", "easy", "stdio")
    assert whole.tests == (("1 2\n", "3\n"), ("5 6\n", "11"), ("é 0\n", ""))
    assert (function.kind, function.entry, function.difficulty) == ("calls", "f", "hard")
    assert function.tests == (([[1, 2], 3], True), ([["a\n"], -1], [1.5, None]))
    assert not function.exact and whole.seconds == 6.0
    assert list(load_tasks(path, only={"3779"})) == ["3779"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("size", [1, 300, 90_000])
def test_a_pickled_string_is_read_as_pickle_would(protocol, size):
    text = "é\u2028\n'\\" * size
    assert livecodebench.string_of_pickle(pickle.dumps(text, protocol), "x") == text


class Runs:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_pickle_is_ever_loaded(tmp_path):
    trap = tmp_path / "made"
    data = pickle.dumps(Runs(trap))
    pickle.loads(data)
    trap.rmdir()  # the trap works
    row = lcb_row(private_test_cases=base64.b64encode(zlib.compress(data)).decode())
    with pytest.raises(UserError, match=r"^[^:]*:1: `private_test_cases` is a pickle"):
        load_tasks(write(tmp_path / "lcb.jsonl", row))
    assert not trap.exists()


BOMB = base64.b64encode(zlib.compress(b"\0" * 3_000_000)).decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_test_cases": None}, "`private_test_cases` is missing or no text"),
        ({"private_test_cases": "%%"}, "neither JSON nor base64 of zlib"),
        ({"private_test_cases": "AAAA"}, "neither JSON nor base64 of zlib"),
        ({"private_test_cases": packed([])[:-8]}, "cut short"),
        ({"private_test_cases": BOMB}, "more than 1 MiB"),
        ({"private_test_cases": packed({"a": 1})}, "must be a list of objects"),
        ({"private_test_cases": packed([{"input": 1, "output": ""}])}, "must be a list of objects"),
        ({"private_test_cases": "[1"}, "`private_test_cases` is not valid JSON"),
        ({"private_test_cases": "[]", "public_test_cases": "[]"}, "no test cases"),
        ({"public_test_cases": "[" * 100_000}, "`public_test_cases` is not valid JSON"),
        ({"public_test_cases": FUNCTION["public_test_cases"]}, "`metadata` has no func_name"),
        ({"metadata": '{"func_name": "f"}'}, "`test 1` is not valid JSON"),
        ({"metadata": "[]"}, "`metadata` must hold a JSON object"),
    ],
    ids=str,
)
def test_a_damaged_problem_is_named_by_file_and_line(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(livecodebench, "LARGEST", 2**20)
    path = write(tmp_path / "lcb.jsonl", lcb_row(), lcb_row("second") | changes)
    with pytest.raises(UserError) as error:
        load_tasks(path)
    assert f"{path}:2: " in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_problem_twice_and_other_files_are_refused(tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(), lcb_row())
    with pytest.raises(UserError, match=r"lcb.jsonl:2: question_id 'abc301_a' again"):
        load_tasks(path)
    with pytest.raises(UserError, match=r"other.jsonl:1: no LiveCodeBench problem"):
        load_tasks(write(tmp_path / "other.jsonl", {"prompt": "a"}))
    with pytest.raises(UserError, match="choose humaneval, basics or tiny:SPLIT, or a"):
        load_tasks("mbpp")


def test_prompts_from_the_same_file_are_the_benchmarks_chat_and_hold_no_tests(tmp_path):
    path = write(tmp_path / "lcb.jsonl", lcb_row(), lcb_row("3779", **FUNCTION))
    whole, function = read_prompts(path)
    system, user = whole.messages
    assert system["role"] == "system" and "expert Python programmer" in system["content"]
    assert user["content"].startswith(
        "### Question:\nPrint the sum of two numbers.\n\n### Format: "
    )
    assert "```python\n# YOUR CODE HERE\n```\n\n### Answer: (use" in user["content"]
    starter = FUNCTION["starter_code"]
    assert "starter code to write" in function.messages[1]["content"]
    assert f"```python\n{starter}\n```\n\n### Answer" in function.messages[1]["content"]
    assert function.meta["difficulty"] == "hard"
    assert not any("test_cases" in key for key in function.meta)
    assert [p.problem_id for p in (whole, function)] == list(load_tasks(path))


def test_livecodebench_answers_count_by_their_last_two_fences():
    task = Task("p", kind="stdio", fenced=True)
    two = "First:\n```python\na = 1\n```\nBetter:\n```python\nb = 2\n```\nDone."
    assert program(task, two) == "b = 2"
    for none in ("print(1)", "```python\nprint(1)", "```python\n\n```", ""):
        assert program(task, none) is None


def test_humaneval_takes_completions_whole_functions_and_bodies():
    """Every canonical solution passes the benchmark's own check in each of four shapes."""
    tasks = load_tasks("humaneval")
    for row in humaneval():
        body, task = row["canonical_solution"], tasks[row["task_id"]]
        block = "Sure:\n\n```python\n{}\n```\nThat is all. `x`"
        shapes = (
            body,
            block.format(row["prompt"] + body),
            block.format(body),
            block.format(textwrap.dedent(body)),
        )
        for answer in shapes:
            exec(f"{program(task, answer)}\n{task.check}\ncheck({task.entry})\n", {})
    assert program(task, body) == row["prompt"] + body  # a completion is never touched


def test_the_space_that_a_turn_begins_with_is_no_indentation():
    """Llama 2's answers begin with one, which is part of what its tokens decode to."""
    plain = Task("p", kind="stdio")
    assert program(plain, " def f():\n    return 1") == "def f():\n    return 1"
    assert program(plain, " x = (") == " x = ("  # no program either way
    check = Task("p", kind="check", entry="f", prefix="def f(x):\n")
    assert program(check, " return x\n") == "def f(x):\n return x\n"
    assert program(check, " def f(x):\n    return x") == "def f(x):\n def f(x):\n    return x"
    documented = Task("p", kind="check", entry="f", prefix='def f(x):\n    """Doc."""\n')
    assert (
        program(documented, " def f(x):\n  return x") == documented.prefix + "def f(x):\n  return x"
    )


def test_a_fence_inside_a_completed_docstring_is_none():
    completion = '    """Example:\n\n    ```\n    f(1)\n    ```\n    """\n    return 1\n'
    assert extract_code(completion) == completion


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("```python\nx = 1\n```\nprints\n```text\n1\n```\n", "x = 1\n"),
        ("```Python3\nx = 1\n```", "x = 1\n"),
        ("```python\nopen\n\nagain:\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "```python\nx = 1"),  # cut short: no closed block
        ("1. So:\n   ```py\n   x = 1\n   ```\n", "x = 1\n"),
        ("- a\n  - So:\n\n    ~~~python\n    if x:\n        y\n    ~~~\n", "if x:\n    y\n"),
        ("    - a\n      ```\n      b\n      ```\n", "    - a\n      ```\n      b\n      ```\n"),
        ("- a\n\nSo:\n\n    ```\n    b\n    ```\n", "- a\n\nSo:\n\n    ```\n    b\n    ```\n"),
        ("````python\nx = (\n```\n)\n````\n", "x = (\n```\n)\n"),
        ("~~~\nx = 1\n```\n~~~\n", "x = 1\n```\n"),
        ("```{python}\nx = 1\n```\n", "x = 1\n"),
        ("```{.python .numberLines}\nx = 1\n```\n", "x = 1\n"),
        ('```python title="a.py"\nx = 1\n```\n', "x = 1\n"),
        ('```title="a.py"\nx = 1\n```\n', "x = 1\n"),
        ("```python:a.py\nx = 1\n```\n```python-repl\n>>> x\n```", "x = 1\n"),
        ("Use ```x``` here\n", "Use ```x``` here\n"),
        ("```\nx = '\u2028'\r\n```\r\n", "x = '\u2028'\r\n"),
    ],
    ids=str,
)
def test_the_last_closed_python_block(answer, code):
    assert extract_code(answer) == code


FUNCTION_BLOCK = "```python\ndef f(x):\n    return x\n```\n"


@pytest.mark.parametrize(
    "after",
    [
        *("```python\nprint(f(1))\n```\n", "```\n1\n```", "~~~py\nassert f(1) == 1\n~~~\n"),
        *("```python\ndef test_f():\n    f(1)\n```\n", "```python\nprint(f(1)", "Done."),
        "```python\ndef f2(x):\n    pass\n```\n",
    ],
)
@pytest.mark.parametrize("before", ["", "```python\ndef f(x): ...\n\nBetter:\n"])
def test_the_block_that_defines_the_function_is_the_program(before, after):
    """Neither usage nor tests nor output after it, nor a draft before it."""
    task = Task("p", kind="check", entry="f", prefix="def f(x):\n")
    code = "def f(x):\n    return x\n"
    assert program(task, before + FUNCTION_BLOCK + after) == task.prefix + code
    cut = before + FUNCTION_BLOCK.removesuffix("```\n")
    assert program(task, cut) == task.prefix + code
    assert program(Task("p", entry="f"), before + FUNCTION_BLOCK + after) == code


def test_share_without_code():
    tasks = {"a": Task("a", kind="stdio", fenced=True), "b": Task("b", entry="solve")}
    samples = [
        {"problem_id": "a", "completion": "I cannot."},
        {"task_id": "a", "completion": "```\nx\n```"},
        {"problem_id": "b", "completion": "def solve(xs): return xs"},
        {"problem_id": "b", "completion": " \n"},
    ]
    assert lacks_code(samples, tasks) == [True, False, False, True]


def test_the_bundled_domains_tasks_are_typed_calls():
    task = next(iter(load_tasks("tiny:dev").values()))
    assert task.kind == "calls" and task.entry == "solve" and task.exact and task.tests
    assert task.difficulty in ("easy", "medium", "hard")


def test_a_livecodebench_file_from_answers_to_verdicts(tmp_path):
    """stdin programs and functions by the benchmark's rules: its imports, its equality."""
    function = FUNCTION | {
        "public_test_cases": json.dumps([case("[1, 2]\n3", "true", "functional")]),
        "private_test_cases": packed([case("[]\n0", "false", "functional")]),
    }
    program = lcb_row(private_test_cases=packed([case("5 6\n", "11"), case("1 1\n", "2.0\n")]))
    path = write(tmp_path / "lcb.jsonl", program, lcb_row("3779", **function))
    method = "class Solution:\n    def f(self, xs: List[int], k: int) -> bool:\n        return "
    answers = [
        ("abc301_a", "a, b = map(int, input().split())\nprint(a + b)", "pass"),
        (
            "abc301_a",
            "if __name__ == '__main__':\n    print(sum(map(int, stdin.read().split())))",
            "pass",
        ),
        ("abc301_a", "print(3)", "wrong"),
        ("3779", method + "len(Counter(xs))", "wrong"),  # 2 is not True
        ("3779", method + "int(len(xs) > 0)", "pass"),  # but 1 is
        ("3779", "def f(xs, k):\n    return len(xs) > 0", "pass"),
    ]
    samples = [
        {"problem_id": name, "completion": f"So:\n```python\n{code}\n```"}
        for name, code, _ in answers
    ]
    samples.append({"problem_id": "3779", "completion": method})  # no fences
    unboxed = sandbox.obstacle() is not None
    found = evaluate(samples, load_tasks(path), progress=False, unsandboxed=unboxed)
    wanted = [verdict for *_, verdict in answers]
    assert list(found["verdict"]) == [*wanted, "error"], found["detail"]
    assert list(found["difficulty"]) == ["easy"] * 3 + ["hard"] * 4

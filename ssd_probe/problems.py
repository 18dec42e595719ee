"""Problems as the evaluator sees them, and the code in an answer."""

import re
from dataclasses import dataclass

from ssd_probe.data import humaneval, tiny_problems
from ssd_probe.errors import UserError

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """A problem as the evaluator sees it: a function to call, or a test program to append."""

    problem_id: str
    difficulty: str = ""
    entry: str | None = None
    tests: tuple = ()  # (arguments, expected) pairs for `entry`
    prefix: str = ""  # HumanEval: what stands before the completion
    suffix: str = ""  # HumanEval: the check that stands after it


def load_tasks(source: str) -> dict[str, Task]:
    """`humaneval` or `tiny:SPLIT` -> tasks by problem id. `UserError` for anything else."""
    if source == "humaneval":
        return {
            row["task_id"]: Task(
                row["task_id"],
                prefix=row["prompt"],
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

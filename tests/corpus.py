"""Programs that attack the evaluator (`hostile/`), and programs that must pass (`controls/`).

The first line of each says `# VERDICT[|VERDICT] [stdio|check]: what it does`. They are asked for
the sum of some integers, drawn anew in each run: no program can know a sum that it did not compute.
`python -m tests.corpus [WORD ...]` runs those whose name has one of these words, or all, and prints
their verdicts and this process's peak memory as JSON.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from ssd_probe.problems.tasks import Task

FOLDERS = [Path(__file__).with_name(name) for name in ("hostile", "controls")]


@dataclass(frozen=True)
class Case:
    name: str
    verdicts: tuple[str, ...]
    kind: str
    source: str


def read_cases() -> list[Case]:
    return [_read(path) for folder in FOLDERS for path in sorted(folder.glob("*.py"))]


def _read(path: Path) -> Case:
    source = path.read_text()
    verdicts, _, kind = source.partition(":")[0].removeprefix("# ").partition(" ")
    return Case(f"{path.parent.name}/{path.stem}", tuple(verdicts.split("|")), kind, source)


def tasks() -> dict[str, Task]:
    """A sum as a function, as a program that reads stdin, and under a benchmark's own check."""
    rows = [[random.randint(10**6, 10**7) for _ in range(3)] for _ in range(3)]
    asserts = "".join(f"    assert candidate({row}) == {sum(row)}\n" for row in rows)
    prompt = 'def solve(xs):\n    """The sum."""\n'
    return {
        "": Task("", entry="solve", tests=tuple(([row], sum(row)) for row in rows)),
        "stdio": Task(
            "stdio",
            kind="stdio",
            tests=tuple((" ".join(map(str, row)) + "\n", f"{sum(row)}\n") for row in rows),
        ),
        "check": Task(
            "check",
            kind="check",
            entry="solve",
            prefix=prompt,
            check=f"def check(candidate):\n{asserts}",
        ),
    }


def peak_megabytes() -> int:
    """Of this program's memory; `ru_maxrss` would count that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main() -> None:
    from ssd_probe.execution.evaluate import evaluate

    words = sys.argv[1:]
    cases = [c for c in read_cases() if not words or any(word in c.name for word in words)]
    samples = [{"problem_id": case.kind, "completion": case.source} for case in cases]
    rows = evaluate(samples, tasks(), workers=2, seconds=1.0, progress=False)
    print(json.dumps({
        "verdicts": dict(zip((case.name for case in cases), rows["verdict"], strict=True)),
        "megabytes": peak_megabytes(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

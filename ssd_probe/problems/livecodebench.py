"""LiveCodeBench's rows (`code_generation_lite`, saved as JSON Lines): tests, prompts, answers.

Its private tests are JSON text, or base64 of zlib of a pickle of that text. A pickle can run any
program, so none is loaded here: its opcodes are read, and only those of one string are allowed.
"""

import base64
import json
import pickletools
import zlib
from typing import Any, Literal

from ssd_probe.errors import UserError

RAW_STOP = "```"
LARGEST = 512 * 2**20  # bytes of one problem's decompressed tests; the benchmark's stay below
SECONDS = 6.0  # the benchmark's limit, a test
_STRING = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}

# What the benchmark imports before any program, in its order: later names win.
_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
SETUP = (
    "".join(f"from {name} import *\n" for name in _STARRED)
    + "".join(f"import {name}\n" for name in _STARRED if name not in ("builtins", "typing"))
    + "sys.setrecursionlimit(50000)\n"
)

# The benchmark's own words (lcb_runner/prompts/code_generation.py): scores depend on them.
_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
_FROM_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)


def is_problem(row: dict) -> bool:
    """Whether a row is one of this benchmark's: it has a statement."""
    return "question_content" in row


def messages(row: dict, where: str) -> list[dict[str, str]]:
    """The benchmark's chat prompt: system message, then question, format and starter code."""
    question = _text(row, "question_content", where)
    starter = _text(row, "starter_code", where, default="")
    how, code = (_WITH_STARTER, starter) if starter else (_FROM_STDIN, "# YOUR CODE HERE")
    asked = (
        f"### Question:\n{question}\n\n### Format: {how}\n```python\n{code}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]


def raw_prompt(row: dict, where: str) -> str:
    """The same question as text to continue: the answer's fence is open, the next one ends it."""
    return messages(row, where)[1]["content"] + "```python\n"


def about(row: dict) -> dict:
    """What a sample keeps of its problem: never the tests."""
    kept = ("question_title", "platform", "difficulty", "contest_date")
    return {key: row[key] for key in kept if key in row}


def extract_code(answer: str) -> str | None:
    """What stands between the last two lines that hold ```; None with fewer than two such lines.

    Source: extract_code of lcb_runner/utils/extraction_utils.py, which calls every such answer "".
    """
    lines = answer.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else None


def read_tests(
    row: dict, where: str
) -> tuple[Literal["calls", "stdio"], str | None, tuple[tuple, ...]]:
    """`(kind, function name, tests)`: the public tests, then the private ones.

    A function's arguments are one JSON value a line, its result is one JSON value. Raises
    `UserError` "where: ..." for anything missing, damaged, larger than `LARGEST`, or a pickle of
    anything but a string.
    """
    metadata = _json(_text(row, "metadata", where, default="{}"), "metadata", where)
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: `metadata` must hold a JSON object")
    entry = metadata.get("func_name")
    cases = [
        *_cases(_text(row, "public_test_cases", where), "public_test_cases", where),
        *_cases(_private(row, where), "private_test_cases", where),
    ]
    if not cases:
        raise UserError(f"{where}: no test cases; download the benchmark's file again")
    if entry is None:
        if any(case.get("testtype") == "functional" for case in cases):
            raise UserError(f"{where}: functional tests, but `metadata` has no func_name")
        return "stdio", None, tuple((case["input"], case["output"]) for case in cases)
    calls = []
    for number, case in enumerate(cases, start=1):
        what = f"test {number}"
        arguments = [_json(line, what, where) for line in case["input"].split("\n")]
        calls.append((arguments, _json(case["output"], what, where)))
    return "calls", str(entry), tuple(calls)


def _private(row: dict, where: str) -> str:
    """The private tests as JSON text."""
    key = "private_test_cases"
    text = _text(row, key, where)
    if text.lstrip().startswith("["):
        return text
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        pickled = unpacker.decompress(packed, LARGEST)
        whole = unpacker.eof
    except (ValueError, zlib.error) as error:
        raise UserError(f"{where}: `{key}` is neither JSON nor base64 of zlib ({error})") from None
    if not whole:
        size = "cut short" if not unpacker.unconsumed_tail else f"more than {LARGEST >> 20} MiB"
        raise UserError(f"{where}: `{key}` is {size}; download the benchmark's file again")
    return string_of_pickle(pickled, f"{where}: `{key}`")


def string_of_pickle(data: bytes, what: str) -> str:
    """The one string that a pickle holds, read without unpickling; `UserError` for any other."""
    found: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _STRING:
                found.append(str(argument))
            elif opcode.name not in _AROUND:
                raise UserError(f"{what} is a pickle with {opcode.name}: only a string is accepted")
    except UserError:
        raise
    except (ValueError, OverflowError) as error:
        raise UserError(f"{what} is no pickle of a string ({error})") from None
    if len(found) != 1:
        raise UserError(f"{what} is a pickle of {len(found)} strings, not of one")
    return found[0]


def _cases(text: str, key: str, where: str) -> list[dict]:
    cases = _json(text, key, where)
    if not isinstance(cases, list) or not all(map(_is_case, cases)):
        raise UserError(f"{where}: `{key}` must be a list of objects with input and output texts")
    return cases


def _is_case(case: object) -> bool:
    return isinstance(case, dict) and all(
        isinstance(case.get(key), str) for key in ("input", "output")
    )


def _json(text: str, what: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line")[0]
        raise UserError(f"{where}: `{what}` is not valid JSON ({reason})") from None


def _text(row: dict, key: str, where: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str):
        raise UserError(f"{where}: LiveCodeBench's `{key}` is missing or no text")
    return value

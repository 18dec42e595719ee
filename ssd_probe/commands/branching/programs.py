"""Passing programs, and which of an answer's tokens their tests depend on."""

import ast
import io
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ssd_probe.files.digests import digest
from ssd_probe.files.reading import Row
from ssd_probe.models.tokens import special_ids
from ssd_probe.probing.syntax import token_bytes
from ssd_probe.problems.fences import extract_code
from ssd_probe.problems.livecodebench import extract_code as fenced_code
from ssd_probe.problems.rows import stop_strings
from ssd_probe.problems.tasks import Task, program

Span = tuple[int, int]


@dataclass(frozen=True)
class Program:
    """An answer that passes. Its tokens `running` (places in `completion_ids`) are what its tests
    run; `end` is the place of the first token after its code; `closing` that token, where it closes
    a fence."""

    row: dict
    running: list[int]
    end: int
    closing: int | None
    identity: str  # of what it computes: see `program_identity`


def read_program(row: dict, task: Task, tokenizer: Any) -> Program | None:
    """A passing sample as a `Program`; None where its code cannot be found in its tokens."""
    answer, ids = row["completion"], row["completion_ids"]
    found = running_spans(task, answer, bool(stop_strings(row)))
    pieces = token_bytes(ids, tokenizer)
    raw = b"".join(pieces)
    offset = raw.find(answer.encode())
    if found is None or offset < 0:
        return None
    spans, code_end = found
    bounds = [(_byte(answer, a) + offset, _byte(answer, b) + offset) for a, b in spans]
    starts = [0, *accumulate(map(len, pieces))]
    special = special_ids(tokenizer)
    running, end = [], len(ids)
    for place, piece in enumerate(pieces):
        stripped = piece.lstrip()
        first = starts[place + 1] - len(stripped) if stripped else starts[place]
        if ids[place] in special or first >= _byte(answer, code_end) + offset:
            end = place
            break
        if any(a <= first < b for a, b in bounds):
            running.append(place)
    closes = end < len(ids) and pieces[end].strip() in (b"```", b"~~~")
    closing = ids[end] if closes else None
    return Program(row, running, end, closing, identity_of(task, row)) if running else None


def running_spans(task: Task, answer: str, raw: bool = False) -> tuple[list[Span], int] | None:
    """What of an answer is run by the tests, as spans of its characters, and where its code ends.

    That is the program's source up to the end of its last function or class (without any: all of
    it), without docstrings and comments. None where there is no code, or it does not parse.
    """
    whole = program(task, answer, raw)
    code: str | None = answer
    if not raw:
        code = fenced_code(answer) if task.fenced else extract_code(answer, task.entry or "")
    if whole is None or code is None:
        return None
    begin, shift = answer.rfind(code), whole.rfind(code)
    close = begin + len(code)
    if shift < 0:  # a body that was indented: its lines are elsewhere than in the answer
        return [(begin, close)], close
    try:
        tree = _parse(whole)
        idle = [*_docstrings(tree, whole), *_comments(whole)]
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    ends = [
        _at(whole, node.end_lineno, node.end_col_offset)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    spans = _without([(shift, max(ends, default=len(whole)))], idle)
    move = begin - shift
    return [(a + move, b + move) for a, b in spans if a >= shift], close


def program_identity(task: Task, answer: str, raw: bool = False) -> str:
    """The digest of a program's syntax tree without docstrings: equal for what differs in layout.

    Of a program that does not parse it is the text's, of an answer without code that of none.
    """
    source = program(task, answer, raw)
    try:
        tree = _parse(source or "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return digest(source)
    for node in ast.walk(tree):
        if _docstring(node):
            del node.body[0]  # type: ignore[attr-defined]
    return digest(ast.dump(tree))


def identity_of(task: Task, sample: Row) -> str:
    """`program_identity` of a sample, whose stop strings say that it is raw."""
    return program_identity(task, sample["completion"], bool(stop_strings(sample)))


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the program's own: invalid escapes, `1if`
        return ast.parse(source)


def _docstring(node: ast.AST) -> ast.Expr | None:
    body = getattr(node, "body", None)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        return None
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first if isinstance(first.value.value, str) else None
    return None


def _docstrings(tree: ast.AST, source: str) -> list[Span]:
    found = [each for node in ast.walk(tree) if (each := _docstring(node))]
    return [
        (
            _at(source, each.lineno, each.col_offset),
            _at(source, each.end_lineno, each.end_col_offset),
        )
        for each in found
    ]


def _comments(source: str) -> list[Span]:
    lines = io.StringIO(source).readlines()
    starts = [0, *accumulate(map(len, lines))]
    return [
        (starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1])
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]


def _at(source: str, line: int | None, column: int | None) -> int:
    """The character at `ast`'s line (from 1) and column (in bytes)."""
    lines = io.StringIO(source).readlines()
    text = lines[(line or 1) - 1]
    return sum(map(len, lines[: (line or 1) - 1])) + len(text.encode()[: column or 0].decode())


def _byte(text: str, character: int) -> int:
    return len(text[:character].encode())


def _without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """The spans, less the holes."""
    left = list(spans)
    for begin, end in holes:
        pieces = [[(a, min(b, begin)), (max(a, end), b)] for a, b in left]
        left = [(a, b) for pair in pieces for a, b in pair if a < b]
    return left

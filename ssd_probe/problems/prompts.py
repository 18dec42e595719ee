"""Prompts to sample from: JSON Lines, HumanEval, `basics`, or the bundled domain.

Everything a person can get wrong in a file ends in one `UserError` line that names file and line.
"""

from dataclasses import dataclass, field
from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row, numbered_rows
from ssd_probe.problems import basics, livecodebench
from ssd_probe.problems.rows import messages_or_text, problem_id_of, refuse_duplicate
from ssd_probe.tiny.domain import tiny_problems

_PROMPT_KEYS = {"prompt", "messages", "problem_id", "task_id"}


@dataclass(frozen=True)
class Prompt:
    """One problem to solve: chat `messages`, or plain `text` for a base model; never both."""

    problem_id: str
    messages: list[dict] | None
    text: str | None
    meta: dict = field(default_factory=dict)


def read_prompts(source: str | Path, limit: int | None = None) -> list[Prompt]:
    """Prompts from a JSONL file, `humaneval`, `basics[:SPLIT]` or `tiny:SPLIT`; the first `limit`.

    A JSONL line has `prompt` (a string, or a list of chat messages) or `messages`, and optionally
    `problem_id` (or `task_id`); its other keys are kept in `Prompt.meta`. A LiveCodeBench problem
    (`question_content`) becomes that benchmark's chat prompt; its tests are not kept. `basics` are
    chat prompts, `humaneval` is text to continue.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    if (rows := basics.function_problems(str(source))) is not None:
        prompts = [_function_prompt(row, chat=str(source) != "humaneval") for row in rows]
    elif str(source).startswith("tiny:"):
        prompts = [
            Prompt(problem.problem_id, problem.messages, None, {"difficulty": problem.difficulty})
            for problem in tiny_problems(str(source).removeprefix("tiny:"), limit)
        ]
    else:
        prompts = _prompts_from_jsonl(Path(source))
    return prompts[:limit]


def _function_prompt(row: Row, chat: bool) -> Prompt:
    meta = {key: row[key] for key in ("entry_point", "difficulty") if key in row}
    if chat:
        return Prompt(row["task_id"], basics.messages(row), None, meta)
    return Prompt(row["task_id"], None, row["prompt"], meta)


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

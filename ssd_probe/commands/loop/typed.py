"""Commands as a person would type them."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any


def command(words: Iterable[Any]) -> str:
    return shlex.join(["ssd-probe", *map(str, words)])


def flags(settings: Any) -> list[Any]:
    """The flags of what differs from a command's defaults; a field without help is no flag."""
    return recorded_flags(type(settings), vars(settings))


def recorded_flags(kind: Any, values: Mapping[str, Any]) -> list[Any]:
    """The same of the settings of a `kind` as a record holds them."""
    words: list[Any] = []
    for each in fields(kind):
        value = values.get(each.name, each.default)
        if "help" in each.metadata and value != each.default:
            name = "--" + each.name.replace("_", "-")
            words += [name] if value is True else [name, value]
    return words

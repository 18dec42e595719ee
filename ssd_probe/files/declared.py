"""Values of a file that a person wrote: what each must be, or one line that names it."""

import re
from typing import Any

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

MOST = 10**9  # of any count; more is a slip
NAME_BYTES = 100  # a file's name may have 255, and has more than the name


def name_of(where: str, name: Any) -> str:
    """A name that may be a file's; `UserError` "WHERE: ..." else."""
    if not re.fullmatch(r"\w[\w.+-]*", str(name)):
        raise UserError(f"{where}: a name is letters, digits, and . + - _")
    if len(str(name).encode()) > NAME_BYTES:
        raise UserError(f"{where}: a name is {NAME_BYTES} bytes at most")
    return str(name)


def decoding_of(where: str, temperature: Any, top_k: Any, top_p: Any) -> Decoding:
    """The decoding of these values; `UserError` "WHERE: ..."."""
    try:
        return Decoding(temperature, top_k, top_p)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def mapping(
    value: Any, what: str, known: set[str] | None = None, needed: tuple[str, ...] = ()
) -> dict:
    """`value` if it is a mapping with these keys; `UserError` "WHAT: ..." else."""
    if not isinstance(value, dict) or not value:
        raise UserError(f"{what}: must be a mapping of names to values")
    if unknown := sorted(str(key) for key in value.keys() - (known or value.keys())):
        raise UserError(
            f"{what}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known or ()))}"
        )
    if missing := [key for key in needed if key not in value]:
        raise UserError(f"{what}: `{missing[0]}` is missing")
    return value


def listed(value: Any) -> tuple:
    """A list's values, or the one value."""
    return tuple(value) if isinstance(value, list) else (value,)


def whole(key: str, value: Any, least: int, most: int = MOST) -> int:
    """`value` if it is a whole number from `least` to `most`; `UserError` "KEY: ..." else."""
    if type(value) is not int or value < least:
        raise UserError(f"{key}: {value!r} must be a whole number of at least {least}")
    if value > most:
        raise UserError(f"{key}: {value!r} must be a whole number of at most {most:,}")
    return value

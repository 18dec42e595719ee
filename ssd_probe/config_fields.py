"""Settings as dataclasses whose fields say their limits, and in words what they are.

A field with `help` is also a flag of the command that has these settings (`cli.options.flags_of`):
default, limits and help stand in one place.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from ssd_probe.errors import UserError

SEEDS = 2**32 - 1  # the largest that numpy takes


def setting(
    default: Any, help: str | None = None, least: float | None = None, most: float | None = None
) -> Any:
    """A field of a settings class; `least` and `most` are limits of a number that is not None."""
    limits = {"help": help, "least": least, "most": most}
    said = {name: value for name, value in limits.items() if value is not None}
    return dataclasses.field(default=default, metadata=said)


def check_limits(settings: Any) -> None:
    """`UserError` "NAME = VALUE: must be ..." for the first field that is beyond its limits."""
    for field in dataclasses.fields(settings):
        value, said = getattr(settings, field.name), field.metadata
        if value is None or not said.keys() & {"least", "most"}:
            continue
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not said.get("least", -math.inf) <= value <= said.get("most", math.inf):
            raise UserError(f"{field.name} = {value!r}: must be {_wanted(said)}")


def _wanted(said: Mapping[str, Any]) -> str:
    if "most" not in said:
        return f"at least {said['least']:g}"
    return f"from {said.get('least', -math.inf):g} to {said['most']:,}"

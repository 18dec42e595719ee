"""Settings as dataclasses whose fields say their limits, and in words what they are.

A field with `help` is also a flag of the command that has these settings (`cli.options.flags_of`):
default, limits and help stand in one place.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, get_args

from ssd_probe.decoding import is_finite
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
    """Whole numbers, numbers and flags as plain Python ones, so that they compare and record alike.

    `UserError` "NAME = VALUE: must be ..." for the first field of another kind (None is one, unless
    it is the default) or beyond its limits; NaN and infinities are no settings.
    """
    for field in dataclasses.fields(settings):
        value, said = getattr(settings, field.name), field.metadata
        kinds = get_args(field.type) or (field.type,)  # int | None: both
        plain = next((kind for kind in _KINDS if kind in kinds), None)
        if plain is None or (value is None and field.default is None):
            continue
        least, most = said.get("least", -math.inf), said.get("most", math.inf)
        legal = isinstance(value, _KINDS[plain]) and isinstance(value, bool) == (plain is bool)
        if not legal or not is_finite(value) or not least <= value <= most:
            raise UserError(f"{field.name} = {value!r}: must be {_wanted(plain, said)}")
        object.__setattr__(settings, field.name, plain(value))


_KINDS: dict[type, Any] = {bool: bool, int: numbers.Integral, float: numbers.Real}


def _wanted(plain: type, said: Mapping[str, Any]) -> str:
    what = {bool: "true or false", int: "a whole number", float: "a finite number"}[plain]
    if "most" in said:
        return f"{what} from {said.get('least', -math.inf):g} to {said['most']:,}"
    return f"{what} of at least {said['least']:g}" if "least" in said else what

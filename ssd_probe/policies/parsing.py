"""Policies by name, as a person writes them: "min-p(min_p=0.1)", "two-stage(T_train=1.6)"."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from ssd_probe.decoding import Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.policies.rivals import RULES, AdapT, ByLabel, Cut, Edt, Rival, TwoStage

RIVALS: dict[str, type[Rival]] = {kind.name: kind for kind in (TwoStage, ByLabel, Edt, AdapT)}
NAMES = (*RIVALS, *RULES)
# A setting of each that needs one to begin with: where its number is from, docs/method.md says.
USUAL = ("min-p(0.1)", "top-n-sigma(1)", "epsilon(0.0009)", "eta(0.0009)", "typical(0.95)", "top-h",
         "edt(1)")  # fmt: skip


def policy_of(text: str | None, decoding: Decoding) -> Policy:
    """The policy of this text at a decoding; the decoding itself for None.

    "NAME" or "NAME(parameter=number, ...)"; a lone number is the first parameter. Errors:
    `UserError` "policy ...: " for a name or a parameter that there is not, one that is missing, or
    a value out of its range.
    """
    if text is None:
        return decoding
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\)\s*)?", str(text))
    if not found or found[1] not in NAMES:
        raise UserError(f"policy {text!r}: must be NAME(parameter=number, ...) with a name of "
                        f"{', '.join(NAMES)}")  # fmt: skip
    name = found[1]
    kind: Callable[..., Any] = RIVALS.get(name) or RULES[name]
    known = [key for key in inspect.signature(kind).parameters if key != "decoding"]
    try:
        given = _numbers(found[2] or "", known)
        needed = inspect.signature(kind).parameters
        missing = [key for key in known if needed[key].default is needed[key].empty]
        if left := [key for key in missing if key not in given]:
            raise UserError(f"{left[0]} is missing, as in {name}({left[0]}=0.5)")
        if name in RULES:
            return Cut(rule=kind(**given), decoding=decoding)
        return kind(**given, decoding=decoding)
    except UserError as error:
        raise UserError(f"policy {name}: {error}") from None


def message_of(policy: Rival) -> dict[str, Any]:
    """A rival as JSON for another process, where `policy_in` reads it."""
    return {"policy": policy.text, "decoding": dataclasses.asdict(policy.decoding)}


def policy_in(message: dict[str, Any]) -> Policy:
    return policy_of(message["policy"], Decoding(**message["decoding"]))


def own_decoding(text: str, evaluation: Decoding) -> Decoding:
    """What a policy of this text is a part of where models are evaluated at `evaluation`.

    A rule of `RULES` has the temperature alone: its authors have no top-k and no top-p beside it.
    Errors: as `policy_of`.
    """
    if isinstance(policy_of(text, evaluation), Cut):
        return Decoding(evaluation.temperature)
    return evaluation


def _numbers(text: str, known: list[str]) -> dict[str, int | float]:
    """{"T_train": 1.6, "top_k": 20} of "T_train=1.6, top_k=20"."""
    given: dict[str, int | float] = {}
    for place, part in enumerate(filter(None, map(str.strip, text.split(",")))):
        key, equals, value = (each.strip() for each in part.rpartition("="))
        if not equals and place == 0:
            key = known[0]
        if key not in known:
            raise UserError(f"unknown parameter {key or part!r}; known: {', '.join(known)}")
        if key in given:
            raise UserError(f"{key} is given twice")
        try:
            given[key] = int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        except ValueError:
            raise UserError(f"{key} = {value!r}: must be a number") from None
    return given

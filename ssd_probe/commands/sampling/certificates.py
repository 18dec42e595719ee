"""Certificates of `doctor --engine`: whether what they are of is what is to be drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_probe.core.requests import Engine
from ssd_probe.decoding import Policy
from ssd_probe.errors import UserError
from ssd_probe.files.record import read_object
from ssd_probe.models.checkpoints import is_here
from ssd_probe.models.identity import Checkpoint


def certified(path: Path, checkpoint: Checkpoint, engine: Engine, policy: Policy) -> dict[str, Any]:
    """A certificate of this model, engine, its settings, and decoding.

    `UserError` for another, or a failure.
    """
    wanted = {"model": checkpoint.identity, "setup": engine.settings(), **engine.about(policy)}
    return _right(path, policy, wanted)


def known_of(checkpoint: Checkpoint, engine: Engine) -> dict[str, Any]:
    """What `certified` asks for, without a model that is not here and an engine at work."""
    model = {"model": checkpoint.identity} if is_here(checkpoint.name) else {}
    return {**model, "setup": engine.settings()}


def _right(path: Path, policy: Policy, wanted: dict[str, Any]) -> dict[str, Any]:
    found = read_certificate(path)
    wanted = {"decoding": policy.to_dict(), **wanted}
    if key := next((key for key, value in wanted.items() if found.get(key) != value), None):
        has, here = _said(found.get(key)), _said(wanted[key])
        apart = "" if key == "model" else f" ({has}, and here {here})"
        raise UserError(
            f"{path}: certifies another {key.replace('_', ' ')} than these samples would have"
            f"{apart}; make one for this with `ssd-probe doctor --engine`"
        )
    if not found.get("passed"):
        raise UserError(f"{path}: says that this engine failed; its samples are not of {policy}")
    return found


def _said(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {own}" for name, own in value.items() if name != "order") or "none"


def matched(
    paths: Sequence[str], model: str, policies: Sequence[Policy], wanted: dict[str, Any]
) -> dict[Policy, str]:
    """Certificates by which of the policies each is of; `wanted`: as of `known_of`.

    `UserError` for one of none of them, or of another's, or that is wrong as for `certified`.
    """
    found: dict[Policy, str] = {}
    for path in paths:
        policy = next((each for each in policies if certifies(path, each)), None)
        if policy is None:
            raise UserError(
                f"{path}: certifies none of what {model} is drawn at here: "
                f"{'; '.join(map(str, policies))}"
            )
        if policy in found:
            raise UserError(f"{path}: of {policy}, as {found[policy]} is; give one of them")
        _right(Path(path), policy, wanted)
        found[policy] = path
    return found


def certificate_for(paths: Sequence[str], checkpoint: Checkpoint, policy: Policy) -> Path | None:
    """The one of this model and decoding, not looked at further; None where there is none."""
    for path in map(Path, paths):
        if certifies(path, policy) and read_certificate(path).get("model") == checkpoint.identity:
            return path
    return None


def certifies(path: str | Path, policy: Policy) -> bool:
    """Whether a certificate is of this decoding."""
    return read_certificate(Path(path)).get("decoding") == policy.to_dict()


def read_certificate(path: Path) -> dict[str, Any]:
    """As it is written; `UserError` where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with `ssd-probe doctor --engine`")
    return read_object(path, "make it again with `ssd-probe doctor --engine`")

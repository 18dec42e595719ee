"""Certificates of `doctor --engine`: whether what they are of is what is to be drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_probe.core.requests import Engine
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.files.record import read_object
from ssd_probe.models.identity import Checkpoint


def certified(path: Path, checkpoint: Checkpoint, engine: Engine, policy: Policy) -> dict[str, Any]:
    """A certificate of this model, engine, its settings, and decoding.

    `UserError` for another, or a failure.
    """
    found = read_certificate(path)
    wanted = {**engine.about(policy), "model": checkpoint.identity, "decoding": policy.to_dict()}
    wanted["setup"] = engine.settings()
    if other := [key for key, value in wanted.items() if found.get(key) != value]:
        raise UserError(
            f"{path}: certifies another {other[0].replace('_', ' ')} than these samples would "
            "have; make one for this with `ssd-probe doctor --engine`"
        )
    if not found.get("passed"):
        raise UserError(f"{path}: says that this engine failed; its samples are not of {policy}")
    return found


def all_certified(
    paths: Sequence[str], checkpoint: Checkpoint, engine: Engine, decodings: Sequence[Decoding]
) -> list[dict[str, Any]]:
    """Certificates, each of another of the decodings; `UserError` as of `certified`."""
    found: dict[Decoding, str] = {}
    for path in paths:
        matching = [each for each in decodings if certifies(path, each)]
        if not matching:
            raise UserError(
                f"{path}: certifies none of the decodings that {checkpoint.name} is drawn at here: "
                f"{'; '.join(map(str, decodings))}"
            )
        if (decoding := matching[0]) in found:
            raise UserError(f"{path}: of {decoding}, as {found[decoding]} is; give one of them")
        found[decoding] = path
    return [certified(Path(path), checkpoint, engine, each) for each, path in found.items()]


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

"""A toy machine from a YAML or JSON file; what is wrong in it is one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssd_probe.analysis.toy.machine import PAPER, Machine, Position, with_tail
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_yaml

_KEYS = {"vocabulary", "positions", "train", "evaluation", "robustness"}
_POSITION_KEYS = {"probabilities", "head", "tail", "right", "times"}


def load_machine(path: Path) -> Machine:
    """A machine from YAML or JSON; docs/guide.md shows the keys. UserError, one line each."""
    given = read_yaml(path)
    try:
        return _machine(given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _machine(given: Any) -> Machine:
    _known(given, _KEYS, "the machine")
    if not isinstance(given.get("positions"), dict) or not given["positions"]:
        raise UserError("positions: must be a mapping of names to positions")
    size = given.get("vocabulary")
    if size is not None and (not _is_int(size) or size < 2):
        raise UserError(f"vocabulary = {size!r}: must be an integer >= 2")
    positions = tuple(
        _position(str(name), entry, size) for name, entry in given["positions"].items()
    )
    train = _decoding(given, "train", PAPER.train)
    evaluation = _decoding(given, "evaluation", PAPER.evaluation)
    robustness = given.get("robustness", list(PAPER.robustness))
    if not isinstance(robustness, list):
        raise UserError(f"robustness = {robustness!r}: must be a list of top-p")
    levels = tuple(replace(evaluation, top_p=top_p).top_p for top_p in robustness)
    return Machine(positions, train, evaluation, levels)


def _position(name: str, entry: Any, size: int | None) -> Position:
    where = f"position {name!r}"
    _known(entry, _POSITION_KEYS, where)
    if ("probabilities" in entry) == ("head" in entry):
        raise UserError(f"{where}: needs either probabilities, or head and tail")
    if "tail" in entry and "head" not in entry:
        raise UserError(f"{where}: tail goes with head")
    if "head" in entry:
        head, tail = _masses(entry["head"], f"{where}: head"), entry.get("tail")
        if size is None or size <= len(head):
            raise UserError(f"{where}: a head needs a vocabulary larger than it")
        if sum(head) > 1 or not _is_number(tail) or not 0 < tail <= 1:
            raise UserError(f"{where}: a head sums to at most 1, and its tail is a ratio in (0, 1]")
        probabilities = with_tail(head, tail, size)
    else:
        masses = _masses(entry["probabilities"], f"{where}: probabilities")
        if abs(sum(masses) - 1) > 1e-6:
            raise UserError(f"{where}: probabilities sum to {sum(masses):.6g}, not 1")
        if size not in (None, len(masses)):
            raise UserError(f"{where}: {len(masses)} probabilities, vocabulary {size}")
        probabilities = np.array(masses) / sum(masses)
    right, times = entry.get("right", [0]), entry.get("times", 1)
    if (
        not isinstance(right, list)
        or not right
        or not all(_is_int(i) and 0 <= i < len(probabilities) for i in right)
    ):
        raise UserError(f"{where}: right = {right!r}: must be ids in 0..{len(probabilities) - 1}")
    if not _is_int(times) or times < 1:
        raise UserError(f"{where}: times = {times!r}: must be an integer >= 1")
    return Position(name, probabilities, tuple(sorted(set(right))), times)


def _decoding(given: dict, name: str, default: Decoding) -> Decoding:
    """`train` or `evaluation`; what is left out is off, and a missing mapping is the paper's."""
    if name not in given:
        return default
    allowed = {"top_k", "top_p"} | ({"temperature"} if name == "train" else set())
    _known(given[name], allowed, name)
    try:
        return Decoding(**given[name])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _known(given: Any, keys: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise UserError(f"{where}: must be a mapping")
    unknown = sorted(str(key) for key in given.keys() - keys)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(keys))}")


def _masses(values: Any, where: str) -> list[float]:
    if (
        not isinstance(values, list)
        or not values
        or not all(_is_number(x) and 0 <= x <= 1 for x in values)
    ):
        raise UserError(f"{where}: must be a list of numbers in 0..1")
    return [float(x) for x in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

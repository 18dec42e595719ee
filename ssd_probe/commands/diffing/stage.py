"""`ssd-probe diff`: what differs between two runs, or a run and a published recipe."""

from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.commands.diffing.aspects import ASPECTS
from ssd_probe.commands.diffing.facts import RECIPES, Fact, Side, recipe, side_of


class Difference(NamedTuple):
    """One aspect in which the two are not the same; names and sentences as a person reads them."""

    what: str
    why: str
    run: Fact
    other: Fact


class Differences(NamedTuple):
    """What differs, weightiest first; what is the same; what one of the two does not say."""

    run: str
    other: str
    found: list[Difference]
    same: list[str]
    unknown: list[tuple[str, str]]  # aspect, and who does not say it

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        return {
            "run": self.run,
            "other": self.other,
            "differences": [
                {"what": d.what, "why": d.why, "run": d.run.value, "other": d.other.value,
                 "run_source": d.run.source, "other_source": d.other.source}
                for d in self.found
            ],
            "same": self.same,
            "unknown": [{"what": what, "of": of} for what, of in self.unknown],
        }  # fmt: skip


def diff_stage(run: Path, other: str) -> Differences:
    """Compare what a run, or a record of `sample`, `train`, `evaluate`, says with another's.

    other: a path of the same kinds, or a recipe: `paper`, `paper:MODEL`, `ml-ssd`. An aspect that
    neither side says is left out. Raises UserError as `side_of` and `recipe`.
    """
    left = side_of(run)
    named = other.partition(":")[0] in RECIPES
    right = recipe(other, left) if named else side_of(Path(other))
    return compared(left, right)


def compared(left: Side, right: Side) -> Differences:
    """Two sides, aspect by aspect in the order of `ASPECTS`."""
    found: list[Difference] = []
    same: list[str] = []
    unknown: list[tuple[str, str]] = []
    for key, name, why in ASPECTS:
        ours, theirs = left.facts.get(key), right.facts.get(key)
        if ours is None and theirs is None:
            continue
        if ours is None or theirs is None:
            unknown.append((name, left.name if ours is None else right.name))
        elif _equal(ours, theirs):
            same.append(name)
        else:
            found.append(Difference(name, why, ours, theirs))
    return Differences(left.name, right.name, found, same, unknown)


def _equal(ours: Fact, theirs: Fact) -> bool:
    if ours.identity and theirs.identity:
        return ours.identity == theirs.identity
    return ours.value == theirs.value

"""What a comparison of two probes says, in sentences."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from ssd_probe.analysis.compare import ALL, Verdict, kind_counts
from ssd_probe.analysis.labels import FORK, LOCK, NEITHER, OPEN
from ssd_probe.analysis.sweeps.printed import changed, comparison_table
from ssd_probe.views.terminal import Told

FRONT = ("entropy", "tail_mass", "kept_mass", "head_entropy", "branching", "target_kl")  # at first
if TYPE_CHECKING:
    from ssd_probe.analysis.digest import Digest

_PLURALS = {LOCK: "locks", FORK: "forks", OPEN: "open", NEITHER: "neither"}
ANSWERS = {True: "yes", False: "no", None: "undecided"}


def told(comparison: pd.DataFrame, sentences: list[str], full: bool = False) -> Told:
    """A comparison for a terminal: the sentences first, then the table, of `FRONT` or all of it."""
    table = comparison
    if not full:
        kinds = table["label"].isin([LOCK, FORK, OPEN])
        table = table[kinds & table["statistic"].isin(FRONT)]
    shown = comparison_table(table).drop(columns=[] if full else ["problems"])
    hints = [] if full else ["All statistics: --full, or --json."]
    return Told(sentences, [shown.to_string(index=False)], hints=hints)


def sentences(found: "Digest") -> list[str]:
    """How many positions of each kind, the verdicts, and what missing ranks do to the numbers."""
    warning = caveat(found.comparison)
    told = [positions(found.comparison), *map(sentence, found.verdicts)]
    return [*told, *([warning] if warning else [])]


def sentence(verdict: Verdict) -> str:
    """The claim, whether it holds, and the numbers that it was judged by."""
    head, basis = f"{verdict.claim}: {ANSWERS[verdict.holds]}", verdict.basis
    if basis["unfit"]:
        head += f" ({basis['unfit']})"
    if len(basis) == 1:  # nothing was measured
        return f"{head}."
    return f"{head}. {_leverage(basis) if 'slip' in basis else _means(basis)}"


def positions(comparison: pd.DataFrame) -> str:
    """How many positions of each kind there were, as a line."""
    counts = kind_counts(comparison)
    whole = counts.pop(ALL)
    told = [f"{n:,} {_PLURALS[kind]} ({100 * n / whole:.3g} %)" for kind, n in counts.items()]
    return f"{whole:,} positions: {', '.join(told)}."


def _means(basis: dict[str, Any]) -> str:
    base, tuned, change = changed(basis)
    told = (
        f"Mean {basis['statistic'].replace('_', ' ')} at {basis['label']}s "
        f"{base} -> {tuned}, difference {change}{_alone(change)} over "
        f"{basis['positions']} positions of {basis['problems']} problems; {_margin(basis)}."
    )
    floor = basis.get("floor", 0)
    if abs(basis["difference"]) < floor:
        told += f" Scoring the base again changes as much: {floor:.2g}."
    return told


def _margin(basis: dict[str, Any]) -> str:
    """What the claim takes for a fall."""
    least = f"{100 * basis['margin']:g} %"
    if basis["label"] == LOCK:
        return f"lost means: fell by more than {least}"
    return f"kept means: did not fall by more than {least}"


def _leverage(basis: dict[str, Any]) -> str:
    tops = [f"{basis[side]:.2f}" for side in ("base_temperature", "tuned_temperature")]
    at = [f"T={top}" + (", the highest tried" * (float(top) >= basis["highest"])) for top in tops]
    why = ", as the base's do at T=1" if basis["slip"] > basis["least_slip"] else ""
    base, tuned, change = changed(basis)
    return (
        f"With T raised until locks leak {basis['slip']:.2g} of their mass to other tokens{why}, "
        f"forks hold {base} nats in the base (at {at[0]}) and {tuned} in the tuned model "
        f"(at {at[1]}), difference {change}{_alone(change)} over {basis['problems']} problems."
    )


def _alone(change: str) -> str:
    return "" if "[" in change else " (no interval: too few problems)"


def caveat(comparison: pd.DataFrame) -> str | None:
    """What missing ranks do to `compare`'s numbers, as a sentence; None where none are missing."""
    share = comparison["missing"].max()
    if not share > 0:
        return None
    return (
        "The tuned model's ranks lack tokens of the base's support at up to "
        f"{100 * share:.3g} % of the positions of a kind: there its kept mass, head entropy and "
        "loss terms are too low, its tail mass too high. `ssd-probe probe --pair` lacks none, a "
        "larger --top-k fewer."
    )

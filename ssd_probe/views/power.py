"""What `ssd-probe power` says of a pilot."""

from typing import Any

from ssd_probe.views.terminal import Told


def told(found: dict[str, Any]) -> Told:
    """The answer of `power_stage`: sentences, then a table by answers a problem."""
    problems, samples, size = found["problems"], found["samples"], found["difference"]
    by = {row["samples"]: row for row in found["resolvable"]}
    needed = {row["samples"]: row for row in found["problems_for"]}
    sentences = [
        f"A trial as large as this pilot ({problems} problems, {samples} answers each, "
        f"{' and '.join(found['names'])}) tells a difference in pass@1 of {_number(by[samples])} "
        f"from none with a chance of {found['power']:.0%}; one of {size:g} with "
        f"{_share(found['now'])}.",
        f"For {size:g} at {found['power']:.0%}: {_count(needed[samples])} problems with {samples} "
        f"answers each; however many answers, {_count(needed[None])}.",
    ]
    table = [f"{'answers':>9}{f'told at {problems} problems':>32}{f'problems for {size:g}':>32}"]
    table += [f"{n:>9}{_number(by[n]):>32}{_count(needed[n]):>32}" for n in by]
    return Told(sentences, ["\n".join(table)], [_doubt(found)])


def _doubt(found: dict[str, Any]) -> str:
    if len(found["names"]) == 1:
        return (
            "from one model only a range, from every problem gaining the same to some going from "
            "never to always; a pilot of both models narrows it"
        )
    if found["between"] == 0:
        return (
            "the difference varies no more from problem to problem than by the answers drawn: of "
            "endless answers such a pilot says only what its upper end does"
        )
    return "in brackets 95 % bootstrap over the pilot's problems"


def _number(row: dict[str, Any]) -> str:
    return _ranged(row, lambda value: f"{value:.3f}")


def _count(row: dict[str, Any]) -> str:
    return _ranged(row, lambda value: f"{value:,.0f}")


def _share(row: dict[str, Any]) -> str:
    return _ranged(row, lambda value: f"{value:.0%}")


def _ranged(row: dict[str, Any], written: Any) -> str:
    low, high = (row[end] if row[end] is None else written(row[end]) for end in ("low", "high"))
    if high is None:
        return "not known"
    if low is None:
        known = "" if row["estimate"] is None else f"{written(row['estimate'])}, "
        return f"{known}{high} at most"
    if row["estimate"] is None:
        return f"{low} to {high}"
    return f"{written(row['estimate'])} [{low}, {high}]"

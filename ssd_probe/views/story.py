"""What a finished run has to say: its figures, and a summary in plain language."""

import math
from pathlib import Path
from typing import Any

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.sweeps.printed import with_interval
from ssd_probe.tiny import domain
from ssd_probe.views.comparison import ANSWERS
from ssd_probe.views.terminal import Told, filled

BASE = "base"
KINDS = {  # as the verdicts name them, for who meets them first
    "locks": "places with one token to choose",
    "forks": "with several",
    "leverage": "opens forks further before locks slip",
}
LOCK_LINES = (("entropy", "entropy (nats)", 4), ("tail_mass", "distractor tail", 4))
FORK_LINES = (
    ("entropy", "entropy (nats)", 3),
    ("head_entropy", "head entropy (nats)", 3),
    ("branching", "branching", 3),
)


def tell(summary: dict, run: Path) -> Told:
    """The summary as a person reads it."""
    which = "the bundled model" if summary["model"] == "tiny" else summary["model"]
    known = "rule" in summary  # the true kinds; a rule's say what is likely, not what is right
    tables = [_tell_positions(summary["comparison"], known), _tell_passes(summary)]
    return Told(
        answers(summary),
        ["\n".join(lines) for lines in tables],
        summary["doubts"],
        [
            f"page: ssd-probe report {run}",
            f"figures: {run / 'figures'}",
            f"numbers: {run / 'summary.json'}",
        ],
        title=f"\nWhat simple self-distillation did to {which}",
    )


def _tell_positions(comparison: list[dict], known: bool) -> list[str]:
    one, several = ("right", "good") if known else ("likely", "likely")
    rows = {(row["label"], row["statistic"]): row for row in comparison}
    lines = []
    for label, what, statistics in (
        (LOCK, f"locks (one {one} token)", LOCK_LINES),
        (FORK, f"forks (several {several} tokens)", FORK_LINES),
    ):
        if (label, "entropy") not in rows:
            lines.append(f"No {what}.")
            continue
        lines.append(f"At {rows[label, 'entropy']['positions']} {what}:")
        for statistic, words, digits in statistics:
            if row := rows.get((label, statistic)):
                lines.append(f"  {words:<19} {_change(row, digits)}")
    return lines


def _change(row: dict, digits: int) -> str:
    low, high = (_number(row[end]) for end in ("low", "high"))
    ends = "" if math.isnan(low + high) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return (
        f"{row['base']:.{digits}f} -> {row['tuned']:.{digits}f} "
        f"({row['difference']:+.{digits}f}{ends})"
    )


def _tell_passes(summary: dict) -> list[str]:
    """pass@k of base and main arm by group, and how far the other arms are from the base."""
    table, gains = by_cell(summary["pass_at_k"]), by_cell(summary["differences"])
    best, main = summary["best_temperature"], summary["main"]
    temperatures = ", ".join(f"{name} {t:g}" for name, t in best.items())
    problems = table[BASE, "all", 1]["problems"]
    intro = (
        f"On {problems} held-out problems, each model at {how_chosen(summary)} "
        f"({temperatures}; {truncations(summary)}; 95 % intervals over problems):"
    )
    lines = [*filled([intro]), f"{'':14}{BASE:>22}{main:>22}{f'{main} - {BASE}':>26}"]
    keys = sorted({(k, group) for model, group, k in table if model == BASE}, key=_order)
    for k, group in keys:
        cells = [with_ends(table[model, group, k]) for model in (BASE, main)]
        change = with_ends(gains[main, group, k], sign=True)
        lines.append(f"pass@{k} {group:<7}{cells[0]:>22}{cells[1]:>22}{change:>26}")
    for name in (name for name in best if name not in (BASE, main)):
        told = ", ".join(
            f"pass@{k} {with_ends(gains[name, group, k], sign=True)}"
            for k, group in keys
            if group == "all"
        )
        lines.append(f"{name} - {BASE}: {told}")
    beyond = beyond_rivals(summary)
    for rival in dict.fromkeys(name for name, _, _ in beyond):
        told = ", ".join(
            f"pass@{k} {with_ends(beyond[rival, group, k], sign=True)}"
            for k, group in keys
            if group == "all"
        )
        lines.append(f"{main} - {rival}: {told}")
    return lines


def beyond_rivals(summary: dict) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The main arm less each decode-only rival, by the rival, group and k; {} without any."""
    return by_cell([row | {"model": row["rival"]} for row in summary.get("beyond_rivals", [])])


def how_chosen(summary: dict) -> str:
    """How a model's T_eval came to be."""
    if summary.get("chosen_on", True):
        return "the T_eval that was best for it on the dev split"
    return "its declared T_eval"


def truncations(summary: dict) -> str:
    """At the test: the students have one, the base may have its own."""
    tested = [
        (at["top_k"], at["top_p"])
        for at in summary.get("tested_at", {}).values() if "policy" not in at
    ]  # fmt: skip
    rivals = ", rivals by their own rules" if summary.get("beyond_rivals") else ""
    if len(set(tested)) <= 1:
        return f"same truncation{rivals}"
    base, other = tested[0], tested[-1]
    of_base = f"base top-k {base[0]}, top-p {base[1]:g}"
    return f"{of_base}, others top-k {other[0]}, top-p {other[1]:g}{rivals}"


def _order(line: tuple[int, str]) -> tuple:
    k, group = line
    known = ("all", *domain.DIFFICULTIES)
    return k, known.index(group) if group in known else len(known), group


def answers(summary: dict[str, Any]) -> list[str]:
    """Did it help, at which T_eval, by how much and how sure; on dev; the controls; the inside."""
    main, best = summary["main"], summary["best_temperature"]
    passes = by_cell(summary["pass_at_k"])
    gains = by_cell(summary["differences"])
    base, tuned = passes[BASE, "all", 1], passes[main, "all", 1]
    told = [
        f"pass@1 on {base['problems']} held-out problems: base {with_ends(base)} at T_eval "
        f"{best[BASE]:g}, {main} {with_ends(tuned)} at {best[main]:g}; difference "
        f"{with_ends(gains[main, 'all', 1], True)}: "
        f"{judged(gains[main, 'all', 1])}."
    ]
    told += otherwise_on_dev(summary.get("dev", []), main, gains[main, "all", 1]["estimate"])
    over = {
        row["over"]: row for row in summary.get("over_controls", [])
        if (row["group"], row["k"]) == ("all", 1)
    }  # fmt: skip
    for name in (name for name in best if name not in (BASE, main)):
        if row := gains.get((name, "all", 1)):
            line = f"{name} (T_eval {best[name]:g}): difference {with_ends(row, True)}"
            line += f": {judged(row)}"
            if less := over.get(name):
                line += f"; {main} less {name} {with_ends(less, True)}: {judged(less)}"
            told.append(f"{line}.")
    for (rival, group, k), row in beyond_rivals(summary).items():
        if (group, k) == ("all", 1):
            told.append(f"{main} less {rival}, which trains nothing: {with_ends(row, True)}: "
                        f"{_ahead(row)}.")  # fmt: skip
    return told + inside(main, summary.get("claims", {}))


def otherwise_on_dev(dev: list[dict[str, Any]], main: str, gain: float) -> list[str]:
    """A sentence where at every T_eval on dev the main arm lies on the base's other side than at
    the test. dev: rows of `pass_curves` at k = 1; gain: of the test, over the base."""
    scores = {(row["model"], row["temperature"]): row["estimate"] for row in dev}
    shared = sorted(t for name, t in scores if name == main and (BASE, t) in scores)
    gains = [scores[main, t] - scores[BASE, t] for t in shared]
    if not gains or not gain or any(each * gain >= 0 for each in gains):
        return []
    side = "below" if gain > 0 else "above"
    tried = ", ".join(f"{t:g}" for t in shared)
    return [
        f"The dev problems say otherwise: there {main} is {side} the base at every T_eval "
        f"({tried})."
    ]


def inside(main: str, claims: dict[str, bool | None]) -> list[str]:
    """The verdicts in words, the kinds of positions said in brackets; none without claims."""
    if not claims:
        return []
    told = []
    for claim, holds in claims.items():
        for kind, meaning in KINDS.items():
            claim = claim.replace(kind, f"{kind} ({meaning})")
        told.append(f"{claim}: {ANSWERS[holds]}")
    return [f"Inside {main}: {'; '.join(told)}."]


def judged(difference: dict[str, Any]) -> str:
    """What a paired difference in pass@k says, by its 95 % interval."""
    low, high = (_number(difference[end]) for end in ("low", "high"))
    if math.isnan(low) or math.isnan(high):
        return "no interval, so nothing can be said"
    if low > 0:
        return "it helped"
    if high < 0:
        return "it hurt"
    return "not told from no difference"


def _ahead(difference: dict[str, Any]) -> str:
    """What the main arm's paired difference to a rival says, by its 95 % interval."""
    told = judged(difference)
    words = {"it helped": "training is ahead", "it hurt": "training is behind"}
    return words.get(told, told)


def by_cell(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows of a summary's pass@k by model, group and k."""
    return {(row["model"], row["group"], row["k"]): row for row in rows}


def with_ends(row: dict[str, Any], sign: bool = False) -> str:
    """An estimate with its interval, if it has one."""
    estimate, low, high = (_number(row[name]) for name in ("estimate", "low", "high"))
    return with_interval(estimate, low, high, sign=sign)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

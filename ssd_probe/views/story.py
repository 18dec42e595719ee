"""What a finished run has to say: its figures, and a summary in plain language."""

from pathlib import Path

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.tiny import domain

LOCK_LINES = (("entropy", "entropy (nats)", 4), ("tail_mass", "distractor tail", 4))
FORK_LINES = (
    ("entropy", "entropy (nats)", 3),
    ("head_entropy", "head entropy (nats)", 3),
    ("branching", "branching", 3),
)


def tell(summary: dict, run: Path) -> str:
    """The summary as a person reads it."""
    which = "the bundled model" if summary["model"] == "tiny" else summary["model"]
    lines = ["", f"What simple self-distillation did to {which}", ""]
    lines += _tell_positions(summary["comparison"])
    lines += ["", *_tell_passes(summary), ""]
    lines += [f"note: {doubt}" for doubt in summary["doubts"]]
    lines += [f"figures: {run / 'figures'}", f"numbers: {run / 'summary.json'}"]
    return "\n".join(lines)


def _tell_positions(comparison: list[dict]) -> list[str]:
    rows = {(row["label"], row["statistic"]): row for row in comparison}
    lines = []
    for label, what, statistics in (
        (LOCK, "locks (one right token)", LOCK_LINES),
        (FORK, "forks (several good tokens)", FORK_LINES),
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
    return (
        f"{row['base']:.{digits}f} -> {row['tuned']:.{digits}f} "
        f"({row['difference']:+.{digits}f} [{row['low']:+.{digits}f}, "
        f"{row['high']:+.{digits}f}])"
    )


def _tell_passes(summary: dict) -> list[str]:
    """pass@k of base and main arm, and the differences of all arms to the base."""
    table = {(row["model"], row["group"], row["k"]): row for row in summary["pass_at_k"]}
    gains = {(row["model"], row["group"], row["k"]): row for row in summary["differences"]}
    best, main = summary["best_temperature"], summary["main"]
    names = {name: "SSD" if name == "ssd" else name for name in best}
    problems = table["base", "all", 1]["problems"]
    others = [name for name in best if name not in ("base", main)]
    temperatures = ", ".join(f"{names[name]} {t:g}" for name, t in best.items())
    columns = [f"{names[name]} - base" for name in (main, *others)]
    lines = [
        f"On {problems} held-out problems, each model at {how_chosen(summary)}",
        f"({temperatures}; {truncations(summary)}; 95 % intervals over problems):",
        f"{'':14}{'base':>22}{names[main]:>22}" + "".join(f"{name:>26}" for name in columns),
    ]
    for k, group in sorted(
        {(k, group) for model, group, k in table if model == "base"}, key=_order
    ):
        cells = [_cell(table[model, group, k], "estimate") for model in ("base", main)]
        cells += [_cell(gains[model, group, k], "estimate", "+") for model in (main, *others)]
        wide = "".join(f"{cell:>26}" for cell in cells[2:])
        lines.append(f"pass@{k} {group:<7}{cells[0]:>22}{cells[1]:>22}{wide}")
    return lines


def how_chosen(summary: dict) -> str:
    """How a model's T_eval came to be."""
    if summary.get("chosen_on", True):
        return "the T_eval that was best for it on the dev split"
    return "its declared T_eval"


def truncations(summary: dict) -> str:
    """At the test: the students have one, the base may have its own."""
    tested = [(at["top_k"], at["top_p"]) for at in summary.get("tested_at", {}).values()]
    if len(set(tested)) <= 1:
        return "same truncation"
    base, other = tested[0], tested[-1]
    return f"base top-k {base[0]}, top-p {base[1]:g}, others top-k {other[0]}, top-p {other[1]:g}"


def _order(line: tuple[int, str]) -> tuple:
    k, group = line
    known = ("all", *domain.DIFFICULTIES)
    return k, known.index(group) if group in known else len(known), group


def _cell(row: dict, name: str, sign: str = "") -> str:
    return f"{row[name]:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"

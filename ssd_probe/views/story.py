"""What a finished run has to say: its figures, and a summary in plain language."""

from pathlib import Path

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.tiny import domain


def tell(summary: dict, run: Path) -> str:
    """The summary as a person reads it."""
    lines = ["", "What simple self-distillation did to the bundled model", ""]
    lines += _tell_positions(summary["comparison"])
    lines += ["", *_tell_passes(summary), ""]
    lines += [f"figures: {run / 'figures'}", f"numbers: {run / 'summary.json'}"]
    return "\n".join(lines)


def _tell_positions(comparison: list[dict]) -> list[str]:
    rows = {(row["label"], row["statistic"]): row for row in comparison}

    def change(label: str, statistic: str, digits: int) -> str:
        row = rows[label, statistic]
        return (
            f"{row['base']:.{digits}f} -> {row['tuned']:.{digits}f} "
            f"({row['difference']:+.{digits}f} [{row['low']:+.{digits}f}, "
            f"{row['high']:+.{digits}f}])"
        )

    return [
        f"At {rows[LOCK, 'entropy']['positions']} locks (one right token):",
        f"  entropy (nats)      {change(LOCK, 'entropy', 4)}",
        f"  distractor tail     {change(LOCK, 'tail_mass', 4)}",
        f"At {rows[FORK, 'entropy']['positions']} forks (several good tokens):",
        f"  entropy (nats)      {change(FORK, 'entropy', 3)}",
        f"  head entropy (nats) {change(FORK, 'head_entropy', 3)}",
        f"  branching           {change(FORK, 'branching', 3)}",
    ]


def _tell_passes(summary: dict) -> list[str]:
    table = {(row["model"], row["group"], row["k"]): row for row in summary["pass_at_k"]}
    gains = {(row["model"], row["group"], row["k"]): row for row in summary["differences"]}
    best = summary["best_temperature"]
    problems = table["base", "all", 1]["problems"]
    lines = [
        f"On {problems} held-out problems, each model at the T_eval that was best for it on the "
        "dev split",
        f"(base {best['base']:g}, SSD {best['ssd']:g}, control {best['control']:g}; same "
        "truncation; 95 % intervals over problems):",
        f"{'':14}{'base':>22}{'SSD':>22}{'SSD - base':>26}{'control - base':>26}",
    ]
    for group, k in [(g, k) for k in (1, 5) for g in ("all", *domain.DIFFICULTIES)]:
        cells = [_cell(table[model, group, k], "estimate") for model in ("base", "ssd")]
        cells += [_cell(gains[model, group, k], "estimate", "+") for model in ("ssd", "control")]
        lines.append(f"pass@{k} {group:<7}{cells[0]:>22}{cells[1]:>22}{cells[2]:>26}{cells[3]:>26}")
    return lines


def _cell(row: dict, name: str, sign: str = "") -> str:
    return f"{row[name]:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"

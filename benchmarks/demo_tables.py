"""The demo's tables in README.md and docs/results.md, from its runs with three seeds.

    python benchmarks/demo_tables.py runs/seed0 runs/seed1 runs/seed2

writes them between `<!-- results: NAME -->` and `<!-- end of results -->`. What the text around
them says, and the sentence on leverage (`ssd-probe compare`), stays to be checked by hand.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = ("all", "easy", "medium", "hard")
POSITIONS = (  # label, statistic, digits, in words
    ("lock", "entropy", 4, "locks: entropy (nats)"),
    ("lock", "tail_mass", 4, "locks: distractor tail (mass)"),
    ("fork", "entropy", 3, "forks: entropy (nats)"),
    ("fork", "head_entropy", 3, "forks: head entropy (nats)"),
    ("fork", "branching", 3, "forks: branching (tokens)"),
)
SHORT = ("tail_mass", "head_entropy", "branching")  # of the README


def find(rows: list[dict], **wanted) -> dict:
    """The one row with these values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def gains(runs: list[dict], model: str, group: str, k: int) -> list[dict]:
    return [find(run["differences"], model=model, group=group, k=k) for run in runs]


def interval(row: dict, digits: int = 3, sign: str = "") -> str:
    return f"[{row['low']:{sign}.{digits}f}, {row['high']:{sign}.{digits}f}]"


def passes(runs: list[dict]) -> list[str]:
    """docs/results.md: every group and k; base and SSD are those of the first run."""
    lines = [
        "| | base | SSD | SSD - base, seed 0 | seed 1 | seed 2 | control - base, seeds 0 / 1 / 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for k, group in [(k, group) for k in (1, 5) for group in LEVELS]:
        ssd, control = (gains(runs, model, group, k) for model in ("ssd", "control"))
        cells = [f"{row['estimate']:+.3f} {interval(row)}" for row in ssd]
        others = " / ".join(f"{row['estimate']:+.3f}" for row in control)
        means = f"{ssd[0]['base']:.3f} | {ssd[0]['tuned']:.3f}"
        lines.append(f"| pass@{k} {group} | {means} | {' | '.join(cells)} | {others} |")
    best = {name: " / ".join(f"{run['best_temperature'][name]:g}" for run in runs)
            for name in ("base", "ssd", "control")}  # fmt: skip
    return [
        *lines, "",
        "The base and SSD columns are seed 0. Best T_eval, seeds 0 / 1 / 2: base "
        f"{best['base']}, SSD {best['ssd']},", f"control {best['control']}.",
    ]  # fmt: skip


def change(row: dict, digits: int) -> str:
    """Base, SSD and their difference, as three cells."""
    means = f"{row['base']:.{digits}f} | {row['tuned']:.{digits}f}"
    return f"{means} | {row['difference']:+.{digits}f} {interval(row, digits, '+')}"


def positions(runs: list[dict]) -> list[str]:
    """docs/results.md: locks and forks of the first run, and how far its training got."""
    rows = runs[0]["comparison"]
    lines = ["| | base | SSD | difference |", "|---|---|---|---|"]
    for label, name, digits, words in POSITIONS:
        lines.append(f"| {words} | {change(find(rows, label=label, statistic=name), digits)} |")
    lock, fork = (find(rows, label=label, statistic="target_kl") for label in ("lock", "fork"))
    return [
        *lines, "",
        f"How far training got: KL(q || p) from its target went from {lock['base']:.4f} to "
        f"{lock['tuned']:.4f} nats at locks, and", f"from {fork['base']:.3f} to "
        f"{fork['tuned']:.3f} at forks (seed 0; `loss_terms` in the figures).",
    ]  # fmt: skip


def short(runs: list[dict]) -> list[str]:
    """README.md: what matters most, of all three seeds."""
    lines = [
        "| | base | SSD | SSD - base (seed 0) | seeds 1, 2 | control - base, seeds 0, 1, 2 |",
        "|---|---|---|---|---|---|",
    ]
    for k, group in ((1, "all"), (1, "hard"), (5, "all")):
        ssd, control = (gains(runs, model, group, k) for model in ("ssd", "control"))
        first = f"{ssd[0]['base']:.3f} | {ssd[0]['tuned']:.3f} | {ssd[0]['estimate']:+.3f}"
        rest = (", ".join(f"{row['estimate']:+.3f}" for row in rows) for rows in (ssd[1:], control))
        lines.append(f"| pass@{k}, {group} | {first} {interval(ssd[0])} | {' | '.join(rest)} |")
    for label, name, digits, words in POSITIONS:
        found = [find(run["comparison"], label=label, statistic=name) for run in runs]
        others = ", ".join(f"{row['difference']:+.{digits}f}" for row in found[1:])
        if name in SHORT:
            lines.append(f"| {words} | {change(found[0], digits)} | {others} | |")
    return lines


def rewrite(text: str, name: str, lines: list[str]) -> tuple[str, int]:
    """The page with this table where its marker is, and how often it is."""
    marked = rf"(<!-- results: {name} -->\n\n).*?(\n\n<!-- end of results -->)"
    return re.subn(marked, lambda m: m[1] + "\n".join(lines) + m[2], text, flags=re.DOTALL)


def main(folders: list[str]) -> None:
    runs = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    for page, name, lines in (
        ("README.md", "short", short(runs)),
        ("docs/results.md", "passes", passes(runs)),
        ("docs/results.md", "positions", positions(runs)),
    ):
        text, places = rewrite((ROOT / page).read_text(encoding="utf-8"), name, lines)
        if places != 1:
            sys.exit(f"{page}: {places} places for the table {name!r}, not one")
        (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

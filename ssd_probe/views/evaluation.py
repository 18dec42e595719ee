"""What an evaluation says: how many pass, what the others did, what to distrust."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ssd_probe.analysis.passk import INFRA_ERROR, PASS
from ssd_probe.analysis.sweeps.printed import pass_at_k_table, with_interval
from ssd_probe.views.signs import visible
from ssd_probe.views.terminal import WIDTH, Told

NO_CODE = "no code"
_DID = {
    "wrong": "gave a wrong result", "error": "raised an exception", NO_CODE: "held no code",
    "timeout": "ran over time", "crash": "crashed", "memory": "took too much memory",
    "output_limit": "put out too much", "protocol": "forged a reply",
}  # fmt: skip
_MOST = 40  # columns of a problem's name, and of what became of it


def told(result: dict[str, Any], ended: Sequence[bool | None] = (), full: bool = False) -> Told:
    """An `evaluate_stage` result for a terminal; ended: of each sample, whether by itself."""
    passes, tables = pd.DataFrame(result["pass_at_k"]), []
    if len(passes) and (full or passes["group"].nunique() > 1):
        tables.append(pass_at_k_table(passes).to_string(index=False, line_width=WIDTH))
    if full:
        tables.append(_by_problem(result["results"]))
        tables.append(_details(result["results"]))
    hints = [] if full else ["Each problem, and how programs failed: --full, or --json."]
    return Told(sentences(result), [each for each in tables if each], doubts(result, ended), hints)


def sentences(result: dict[str, Any]) -> list[str]:
    """pass@k with its intervals over how many problems, and what failed most."""
    rows = result["results"]
    whole = [row for row in result["pass_at_k"] if row["group"] == "all"]
    problems = len({row["task_id"] for row in rows if row["verdict"] != INFRA_ERROR})
    found = ", ".join(
        f"pass@{row['k']} {with_interval(row['estimate'], row['low'], row['high'])}"
        for row in whole
    )
    first = (
        f"{found} on {problems:,} problem{'s' * (problems != 1)} "
        "(95 % bootstrap intervals over problems)."
        if whole
        else "No pass@k: no program could be run."
    )
    return [first, _failed(rows)]


def doubts(result: dict[str, Any], ended: Sequence[bool | None] = ()) -> list[str]:
    """Samples that were not run, not finished, or judged twice; and what isolated them."""
    rows = result["results"]
    lost = sum(row["verdict"] == INFRA_ERROR for row in rows)
    cut = [row for row, whole in zip(rows, ended, strict=False) if whole is False]
    cut_failed = sum(row["verdict"] != PASS for row in cut)
    lines = [
        f"{lost} of {len(rows):,} samples could not be run (infra_error) and are in no pass@k"
        if lost else "",
        f"{len(cut)} of {len(rows):,} samples are unfinished, {cut_failed} of them among the "
        "failed: a larger --max-new-tokens may let them pass" if cut else "",
        f"{100 * result['without_code']:.1f} % of the answers hold no code"
        if result["without_code"] else "",
        f"{result['flips']} samples were over time at first and not when run alone"
        if result["flips"] else "",
        f"isolation: {result['isolation']}" if result["isolation"] != "bubblewrap" else "",
    ]  # fmt: skip
    return [line for line in lines if line]


def _kind(row: dict[str, Any]) -> str:
    """The verdict, and apart from other errors that there was no code."""
    return NO_CODE if row["detail"].startswith("no code in the answer") else row["verdict"]


def _failed(rows: list[dict[str, Any]]) -> str:
    counted = [row for row in rows if row["verdict"] != INFRA_ERROR]
    failed = Counter(_kind(row) for row in counted if row["verdict"] != PASS)
    if not failed:
        return f"All of {len(counted):,} samples pass." if counted else "Nothing failed by itself."
    how = ", ".join(f"{count:,} {_DID[kind]}" for kind, count in failed.most_common())
    return f"Of {len(counted):,} samples {sum(failed.values()):,} failed: {how}."


def _by_problem(rows: list[dict[str, Any]]) -> str:
    """A line a problem: samples, how many pass, and what the others did."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["task_id"], []).append(_kind(row))
    lines = [
        {
            "problem": _short(name),
            "samples": len(kinds),
            "pass": kinds.count(PASS),
            "others": _short(", ".join(
                f"{kind} {n}" for kind, n in Counter(kinds).most_common() if kind != PASS
            )),
        }
        for name, kinds in found.items()
    ]  # fmt: skip
    return pd.DataFrame(lines).to_string(index=False)


def _details(rows: list[dict[str, Any]]) -> str:
    """How programs failed, the most frequent words first."""
    found = Counter((_kind(row), row["detail"]) for row in rows if row["verdict"] != PASS)
    return "\n".join(
        f"{n:>5} " + _short(f"{kind}: {detail}", WIDTH - 6)
        for (kind, detail), n in found.most_common(10)
    )


def _short(text: str, most: int = _MOST) -> str:
    """On one line, without the control characters that a program or a file may have put in it."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"

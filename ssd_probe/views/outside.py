"""What `ssd-probe diff` and `ssd-probe import` say, of what others published or served."""

import textwrap
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from ssd_probe.views.terminal import WIDTH, Told

NAME, CELL = 22, 38  # columns; with the gaps between them the width


def differences(found: dict[str, Any]) -> Told:
    """Of `Differences.to_dict()`: a table, and a sentence each on why it matters."""
    rows, names = found["differences"], (found["run"], found["other"])
    first = (
        f"{len(rows)} differences, the weightiest first: {', '.join(r['what'] for r in rows[:3])}"
        f"{' ...' if len(rows) > 3 else ''}."
        if rows
        else f"No difference in what both say ({len(found['same'])} aspects)."
    )
    lines = _cells("", *names) + ["-" * WIDTH] if rows else []
    for row in rows:
        run, other = row["run"], row["other"]
        if run == other:  # by their digests
            run, other = f"{run} (its content)", f"{other} (another content)"
        lines += _cells(row["what"], run, other)
        lines += textwrap.wrap(row["why"], WIDTH, initial_indent="    ", subsequent_indent="    ")
    doubts = [
        f"not said by {of}: {', '.join(r['what'] for r in found['unknown'] if r['of'] == of)}"
        for of in dict.fromkeys(row["of"] for row in found["unknown"])
    ]
    same = [f"the same: {', '.join(found['same'])}"] if found["same"] and rows else []
    return Told([first], ["\n".join(lines)] if lines else [], doubts + same)


def _cells(*texts: str) -> list[str]:
    widths = (NAME, CELL, CELL)
    columns: Iterable[list[str]] = (
        textwrap.wrap(text, width - 1) or [""] for text, width in zip(texts, widths, strict=True)
    )
    return [
        f"{a:<{NAME}} {b:<{CELL}} {c}".rstrip() for a, b, c in zip_longest(*columns, fillvalue="")
    ]


def imported(found: dict[str, Any], out: str | None) -> Told:
    """Of `Imported._asdict()`: how much, then by kind of position what is exact and what is not."""
    names = ", ".join(found["models"]) or "a model without a name"
    counts = [f"{found[name]:,} {name}" for name in ("prompts", "answers") if found[name]]
    first = (
        f"{found['positions']:,} positions of {' and '.join(counts)} of {names}, with the "
        f"{found['ranks']} likeliest tokens of each"
        f"{'' if found['with_ids'] else ' (by name, without ids)'}."
    )
    head = ("", "positions", "kept mass", "tail mass", "entropy, nats", "Var(log p)")
    rows = [head, *(_row(row) for row in found["kinds"])]
    widths = (11, 10, 10, 21, 19, 19)
    table = "\n".join(
        "".join(f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in
                enumerate(zip(row, widths, strict=True)))
        for row in rows
    )  # fmt: skip
    saved = [f"The table is in {out}."] if out else []
    return Told([first, *saved], [table], found["doubts"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    kept = "not known" if row["kept_mass"] is None else f"{row['kept_mass']:.4f}"
    intervals = (_interval(row, name) for name in ("tail_mass", "entropy", "varentropy"))
    return row["label"], f"{row['positions']:,}", kept, *intervals


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"[{low:.3g}, {'?' if high is None else format(high, '.3g')}]"

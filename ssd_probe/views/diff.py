"""What `ssd-probe diff` says: a table of 100 columns, a sentence each on why it matters."""

import textwrap
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from ssd_probe.views.terminal import WIDTH, Told

NAME, CELL = 22, 38  # columns; with the gaps between them the width


def told(found: dict[str, Any]) -> Told:
    """Of `Differences.to_dict()`."""
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

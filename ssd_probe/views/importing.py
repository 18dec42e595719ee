"""What `ssd-probe import` says of a server's answers."""

from typing import Any

from ssd_probe.views.terminal import Told


def told(found: dict[str, Any], out: str | None) -> Told:
    """Of `Imported._asdict()`: how much, then by kind of position what is exact and what is not."""
    names = ", ".join(found["models"]) or "a model without a name"
    first = (
        f"{found['positions']:,} positions of {found['answers']:,} answers of {names}, with the "
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

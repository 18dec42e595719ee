"""The tokens of a report: the positions that changed most, and the texts that its viewer shows."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ssd_probe.analysis.examples.changed import COLUMNS, most_changed, movements
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.commands.compare import paired_parts, tokenizer_of
from ssd_probe.commands.pictures.view import described
from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.probing.table import Probe
from ssd_probe.views.blocks import Names, Text, texts_of
from ssd_probe.views.page import About
from ssd_probe.views.report.content import Changed
from ssd_probe.views.signs import on_a_line

LOOKED_AT = 24  # changed positions, of which those with the same change are told as one
SHOWN = 6  # changes
LEADING = 5  # tokens of each
RANKS = 20  # of the viewer


class Tokens(NamedTuple):
    """What the viewer of a report is made of."""

    texts: list[Text]
    about: About
    names: Names
    changed: list[Changed]
    told: str  # which texts these are, of how many
    alike: str = ""  # what most of the largest changes have in common, if they do
    ends: bool = False  # whether that is that answers end


def tokens_of(
    base: Probe,
    tuned: Probe | None,
    models: list[str],
    most: int,
    decoding: Decoding | None = None,
    labelling: Decoding = LABELLING,
) -> Tokens:
    """Whole texts of at most `most` positions, but one, those with the largest changes first.

    decoding: that the tables beside the viewer are at, and it opens at; labelling: of the labels.
    """
    tokenizer, rule = tokenizer_of(base, tuned), SupportRule(labelling)
    found = pd.DataFrame({"sample_id": [], "part": []})
    if tuned is not None:
        found = most_changed(paired_parts(base, tuned, COLUMNS), rule, LOOKED_AT)
    other = None if base.is_pair else tuned
    wanted = dict(zip(found["sample_id"], map(int, found["part"]), strict=True))
    texts = _chosen(base, other, wanted, most)
    here = {text.sample_id for text in texts}
    changed, alike, ends = _events(found, tokenizer, here)
    about, names = described(base, other)
    rows, of = sum(len(text.frame) for text in texts), len(base)
    told = f"{len(texts)} text{'s' * (len(texts) > 1)}, {rows:,} of the probe's {of:,} positions"
    if rows < of:
        order = "its first" if tuned is None else "those with the largest changes first"
        told += f", {order}; `ssd-probe view` shows all"
    about = about._replace(models=models, rule=rule, decoding=decoding)
    return Tokens(texts, about, names(), changed, told, alike, ends)


def _chosen(base: Probe, tuned: Probe | None, wanted: dict[str, int], most: int) -> list[Text]:
    """The wanted ones (text -> its part) while they fit, then what comes first in the probe."""
    kept: dict[str, Text] = {}
    parts = sorted({*wanted.values()})
    asked = texts_of(base, tuned, None, parts, wanted) if wanted else ()
    named = {text.sample_id: text for text in asked}
    rows = 0
    for text in chain((named[name] for name in wanted), texts_of(base, tuned)):
        if text.sample_id not in kept and (rows + len(text.frame) <= most or not kept):
            kept[text.sample_id] = text
            rows += len(text.frame)
        elif text.sample_id not in named and rows + len(text.frame) > most:
            break
    return list(kept.values())


def _events(found: pd.DataFrame, tokenizer: Any, here: set[str]) -> tuple[list[Changed], str, bool]:
    """The largest changes, those with the same change as one; what most of them are, and whether
    that is that answers end."""
    if found.empty:
        return [], "", False
    moves = movements(found)
    found = found.assign(lost=moves["lost"], won=moves["won"])
    changed = []
    for _, rows in found.groupby(["lost", "won"], sort=False):
        first, *others = rows.to_dict("records")
        like = [(r["sample_id"], int(r["position"]), _link(r, here)) for r in others]
        changed.append(replace(_changed(first, tokenizer, here), like=like))
    top = moves.head(LOOKED_AT)
    (lost, won), count = next(iter(top.value_counts().items()))
    if count < 2 or 2 * count <= len(top):
        return changed[:SHOWN], "", False
    names = (f"‘{on_a_line(_named(int(i), tokenizer))}’" for i in (lost, won))
    ends = tokenizer is not None and won == tokenizer.eos_token_id
    which = f"The {count}" if count == len(top) else f"{count} of the {len(top)}"
    told = (
        f"{which} largest changes are one: {' gives way to '.join(names)}"
        f"{', the end of an answer' if ends else ''}."
    )
    return changed[:SHOWN], told, ends


def _named(token: int, tokenizer: Any) -> str:
    return str(token) if tokenizer is None else tokenizer.decode([token])


def _link(row: dict[str, Any], here: set[str]) -> str | None:
    """To a position in the viewer, where that shows its text."""
    from urllib.parse import urlencode

    name, position = row["sample_id"], int(row["position"])
    return f"#{urlencode({'text': name, 'position': position})}" if name in here else None


def _changed(row: dict[str, Any], tokenizer: Any, here: set[str]) -> Changed:
    def leading(side: str) -> list[tuple[str, float]]:
        names = [_named(int(i), tokenizer) for i in row[f"{side}_ids"][:LEADING]]
        return list(zip(names, map(float, row[f"{side}_p"]), strict=False))

    return Changed(
        row["sample_id"], int(row["position"]), row["label"], float(row["change"]),
        row["context"], row["token"], leading("base"), leading("tuned"), _link(row, here),
    )  # fmt: skip


def probe_at(path: str | Path, lacks: list[str], side: str = "base") -> Probe | None:
    """The probe where it was; None, and why among `lacks`, where it is no more or damaged."""
    from ssd_probe.errors import UserError

    try:
        return Probe.load(path, side="other" if side == "other" else "base")
    except UserError as error:
        lacks.append(f"No tokens and no changed positions are shown here: {error}.")
        return None

"""`ssd-probe view`: one probe or two in, the token viewer out, as one HTML file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_probe.commands.compare import tokenizer_of
from ssd_probe.errors import UserError
from ssd_probe.probing.table import Probe

if TYPE_CHECKING:
    from ssd_probe.views.blocks import Names
    from ssd_probe.views.page import About

LARGE = 100_000_000  # bytes: a browser opens more, but not gladly


def view_stage(
    probe: Path, other: Path | None, out: Path | None, ranks: int = 20, limit: int | None = None
) -> list[str]:
    """Write the viewer of a probe, by default PROBE/view.html; the lines to print.

    Errors: `UserError` for a folder that is no probe, other tokens or texts on the second, or
    limits below 1.
    """
    from ssd_probe.views.blocks import texts_of
    from ssd_probe.views.page import page_file, write_page

    for name, value in (("ranks", ranks), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    base = Probe.load(probe)
    second = None if other is None else Probe.load(other)
    target = page_file(out or base.path / "view.html")
    about, names = described(base, second, limit)
    rows = write_page(target, texts_of(base, second, limit), about, names(), ranks)
    size = target.stat().st_size
    lines = [f"{rows} positions in {target}, {size / 1e6:.1f} MB: open it in a browser"]
    lines += about.notes
    if size > LARGE:
        lines.append("a large file: take fewer texts with --limit, or fewer --ranks")
    return lines


def described(
    base: Probe, other: Probe | None, limit: int | None = None
) -> "tuple[About, Callable[[], Names]]":
    """What a viewer says of probes, and what makes a collection of the names of ids."""
    from ssd_probe.analysis.labels import SupportRule
    from ssd_probe.views.blocks import Names
    from ssd_probe.views.page import About

    tokenizer = tokenizer_of(base, other)
    models = [_name(base.record.get("model"))]
    if other is not None:
        models.append(_name(other.record.get("model")))
    elif base.is_pair and base.side == "base":
        models.append(_name(base.record.get("other_model")))
    about = About(
        title=" → ".join(models) + f", probe {base.path.name}",
        models=models,
        vocabulary=int(base.record.get("head_rows") or base.record["vocab_size"]),
        rule=SupportRule(),
        special=_special(tokenizer),
        notes=_notes(base, tokenizer, limit),
    )
    return about, partial(Names, None if tokenizer is None else partial(_bytes_of, tokenizer))


def _name(model: Any) -> str:
    """A folder by its last name, a hub id as it is."""
    return Path(model).name if model and Path(model).is_absolute() else str(model)


def _notes(probe: Probe, tokenizer: Any, limit: int | None) -> list[str]:
    notes = []
    texts = probe.record.get("texts")
    if limit is not None and isinstance(texts, int) and limit < texts:
        notes.append(f"The first {limit} of {texts} texts.")
    if tokenizer is None:
        notes.append(
            f"The tokenizer of {probe.record.get('model')} is not on this machine: "
            "tokens that no text holds are shown by their ids."
        )
    if probe.record.get("invalid"):
        notes.append(f"{probe.record['invalid']} positions are not valid (NaN or infinite logits).")
    return notes


def _special(tokenizer: Any) -> list[int]:
    from ssd_probe.models.tokens import special_ids

    return [] if tokenizer is None else sorted(special_ids(tokenizer))


def _bytes_of(tokenizer: Any, ids: list[int]) -> list[bytes]:
    """Of each id by itself: a tokenizer that is decoded step by step must not see neighbours."""
    from ssd_probe.probing.syntax import token_bytes

    return [token_bytes([i], tokenizer)[0] for i in ids]

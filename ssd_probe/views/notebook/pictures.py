"""Objects as small pages of HTML: escaped, without scripts, on light and on dark ground."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from ssd_probe.analysis.labels import COLORS, FORK, KINDS, LOCK, NEITHER, OPEN, SupportRule
from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.errors import UserError
from ssd_probe.views.signs import visible

if TYPE_CHECKING:  # `%load_ext` must not wait for torch
    from ssd_probe.analysis.digest import Digest
    from ssd_probe.kernels.results import PositionStats
    from ssd_probe.probing.table import Probe
    from ssd_probe.views.blocks import Text
    from ssd_probe.views.page import About

SHOWN = 400  # tokens of a text, or labels
ROWS = 20  # of a table
_MONO = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6"
_EDGE = "border-left:1px solid rgba(128,128,128,0.4);"  # where a token begins
INK = "#16181d"  # on these colours, on light ground and on dark
_LOOKS = {  # what the colour says, the line below says too
    LOCK: f"color:{INK};background-color:{COLORS[LOCK]}",
    FORK: f"color:{INK};background-color:{COLORS[FORK]};border-bottom:3px double",
    OPEN: f"color:{INK};background-color:{COLORS[OPEN]};border-bottom:3px dotted",
    NEITHER: "",
}
_BAR = "display:inline-block;height:0.7em;background-color:rgba(30,110,190,0.8)"


def probe_picture(probe: "Probe") -> str:
    """What a probe is, and the beginning of its first text by label."""
    from ssd_probe.views.blocks import COLUMNS

    record = probe.record
    settings = probe.settings
    model = record.get("model" if probe.side == "base" else "other_model")
    facts = {
        "model": f"{model} → {record.get('other_model')}" if _both(probe) else model,
        "texts": record.get("texts"),
        "positions": f"{len(probe):,}",
        "not valid": record.get("invalid") or None,
        "cut texts": record.get("truncated") or None,
        "ranks kept": settings.get("top_k"),
        "computed in": f"{record.get('dtype')} on {record.get('device')}".removeprefix("torch."),
        "unfinished": None if probe.finished else "yes: run the same command again",
    }
    head = f"<strong>Probe {escape(probe.path.name)}</strong>"
    table = _table(["", ""], [(k, v) for k, v in facts.items() if v is not None], header=False)
    part = probe.part(0, COLUMNS) if len(probe) else None
    if part is None or not len(part):
        return head + table
    first = part[part["sample_id"] == part["sample_id"].iloc[0]]
    return head + table + _first(first)


def text_picture(text: "Text", about: "About") -> str:
    """The beginning of a text, its tokens by label, under the title of its models."""
    notes = "".join(f"<br><small>{escape(note)}</small>" for note in about.notes)
    return f"<strong>{escape(about.title)}</strong>{notes}{_first(text.frame, about.rule)}"


def decoding_picture(decoding: Decoding) -> str:
    """A decoding in the order of its steps, and whose settings of the paper these are."""
    off = {"top_k": decoding.top_k == 0, "top_p": decoding.top_p == 1}
    steps = [
        f"{name.replace('_', '-')} <strong>{'off' if off.get(name) else f'{value:g}'}</strong>"
        for name, value in ((n, getattr(decoding, n)) for n in decoding.order.split(", "))
    ]
    shown = "greedy: the likeliest token" if decoding.is_greedy else " → ".join(steps)
    whose = ", ".join(f"{model} ({stage})" for model, stage in decoding.presets)
    return f"<div>{shown}</div>" + (f"<small>In the paper: {escape(whose)}</small>" * bool(whose))


def labels_picture(labels: pd.Series) -> str | None:
    """The shares of the labels, and the first of them in order; None for what is no labels."""
    if labels.name != "label" or not len(labels) or not set(labels.unique()) <= set(KINDS):
        return None
    cells = (f'<span title="{kind}" style="{_LOOKS[kind]}">{kind[0]}</span>'
             for kind in labels.iloc[:SHOWN])  # fmt: skip
    more = _more(len(labels), SHOWN, "labels")
    return f'{shares_picture(labels)}<div style="{_MONO}">{"".join(cells)}</div>{more}'


def paragraph(*lines: str) -> str:
    """Lines of text."""
    return f"<p>{'<br>'.join(map(escape, lines))}</p>"


def shares_picture(labels: Iterable[str], of: str = "positions") -> str:
    """How many of each kind, with a bar."""
    count = Counter(labels)
    whole = count.total()
    rows = [
        (f'<span style="{_LOOKS[kind]}">&nbsp;{kind}&nbsp;</span>', f"{count[kind]:,}",
         f"{100 * count[kind] / whole:.1f} %", _bar(count[kind] / whole, 160))
        for kind in KINDS
    ]  # fmt: skip
    return _table(["label", of, "share", ""], rows, raw=True)


def stats_picture(stats: "PositionStats") -> str:
    """The first rows: entropy, leading tokens with bars, and the mass beyond the ranks."""
    shown = stats.rows(slice(0, ROWS)) if len(stats) > ROWS else stats
    ranks = shown.top_ids.shape[1]
    first = min(ranks, 5)
    tails = shown.tail_log_mass.double().exp()
    rows = []
    for row, (ids, probs) in enumerate(
        zip(shown.top_ids[:, :first].tolist(), shown.top_probs()[:, :first].tolist(), strict=True)
    ):
        leading = (f"{_bar(p, 60)} {i}: {p:.3g}" for i, p in zip(ids, probs, strict=True) if i >= 0)
        valid = bool(shown.valid[row])
        rows.append(
            (str(row), f"{shown.entropy[row]:.3f}" if valid else "not valid",
             "<br>".join(leading) if valid else "", f"{tails[row]:.2e}" if valid else "")
        )  # fmt: skip
    names = ["row", "entropy, nats", "id: probability", f"beyond rank {ranks}"]
    head = f"<strong>PositionStats</strong> of {len(stats):,} positions, {ranks} ranks kept"
    return head + _table(names, rows, raw=True) + _more(len(stats), ROWS, "positions")


def digest_picture(found: "Digest") -> str:
    """A comparison: what it says, in sentences, and its table."""
    from ssd_probe.analysis.sweeps.printed import comparison_table
    from ssd_probe.views.comparison import sentences

    lines = "".join(f"<li>{escape(line)}</li>" for line in sentences(found))
    table = comparison_table(found.comparison)
    rows = table.astype(str).itertuples(index=False, name=None)
    return (
        f"<strong>Comparison, {escape(found.where)}</strong><ul>{lines}</ul><details><summary>"
        f"All statistics, by label</summary>{_table(table.columns, rows)}</details>"
    )


def _first(frame: pd.DataFrame, rule: SupportRule | None = None) -> str:
    """The shares of a text's labels, and its tokens."""
    try:
        labels = (rule or SupportRule()).label(frame)
    except UserError as error:
        return f"<p><small>{escape(str(error))}</small></p>"
    tokens = zip(frame["token"].fillna(""), labels, strict=True)
    spans = (f'<span title="{kind}" style="{_EDGE}{_LOOKS[kind]}">{escape(visible(token))}</span>'
             for token, kind in islice(tokens, SHOWN))  # fmt: skip
    name = escape(str(frame["sample_id"].iloc[0]))
    rule_name = f"labels under {LABELLING if rule is None else rule.decoding}"
    return (
        f"<p>Text <code>{name}</code>, {rule_name}:</p>{shares_picture(labels)}"
        f'<div style="{_MONO}">{"".join(spans)}</div>{_more(len(frame), SHOWN, "tokens")}'
    )


def _both(probe: "Probe") -> bool:
    return probe.is_pair and probe.side == "base"


def _bar(share: float, width: int) -> str:
    return f'<span style="{_BAR};width:{width * share:.1f}px"></span>'


def _more(count: int, shown: int, what: str) -> str:
    return f"<small>The first {shown} of {count:,} {what}.</small>" if count > shown else ""


def _table(
    names: Sequence[str], rows: Iterable[Sequence[Any]], raw: bool = False, header: bool = True
) -> str:
    """raw: the cells are HTML already."""
    put = str if raw else (lambda cell: escape(str(cell)))
    left = 'style="text-align:left"'
    top = "".join(f"<th {left}>{escape(str(name))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td {left}>{put(c)}</td>' for c in row)}</tr>" for row in rows)
    head = f"<thead><tr>{top}</tr></thead>" if header else ""
    return f"<table>{head}<tbody>{body}</tbody></table>"

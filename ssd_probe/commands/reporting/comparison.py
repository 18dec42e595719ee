"""The report of a folder of `ssd-probe compare --out`."""

from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.rates import by_segment
from ssd_probe.analysis.sweeps.printed import comparison_table
from ssd_probe.commands.compare import COMPARISON
from ssd_probe.commands.reporting.tokens import Tokens, probe_at, tokens_of
from ssd_probe.decoding import Decoding
from ssd_probe.files.record import read_object
from ssd_probe.views.comparison import FRONT, caveat
from ssd_probe.views.doubts import collect, much_prose, of_record
from ssd_probe.views.report.content import (
    Block,
    Commands,
    Figure,
    Notes,
    Prose,
    Report,
    Section,
    Table,
    Terms,
)
from ssd_probe.views.report.terms import COMPARED, NAME, TITLE

FIGURES = ("fig_5", "fig_4", "fig_4_bars", "fig_8", "fig_6a", "fig_6b", "fig_6c", "fig_6d",
           "loss_terms", "fork_rates")  # fmt: skip
_NUMBERS = ("base", "tuned", "difference", "low", "high", "floor", "missing")


def of_comparison(folder: Path, most: int) -> tuple[Report, Tokens | None]:
    """Of a comparison alone. `UserError` for a folder that an older version wrote."""
    content = read_object(folder / COMPARISON)
    base, tuned = content["base"], content["tuned"]
    lacks: list[str] = []
    probes = [probe_at(each["probe"], lacks, each["side"]) for each in (base, tuned)]
    tokens = None
    if probes[0] is not None and probes[1] is not None:
        at, marking = (_decoding(content[key]) for key in ("decoding", "labelling"))
        models = [base["model"], tuned["model"]]
        tokens = tokens_of(probes[0], probes[1], models, most, at, marking)
    settings = pd.DataFrame(
        [
            ("base", base["model"]), ("tuned", tuned["model"]),
            ("base's probe", base["probe"]), ("tuned model's probe", tuned["probe"]),
            ("training decoding", str(_decoding(content["decoding"]))),
            ("labels", f"{content['rule']} rule, at {_decoding(content['labelling'])}"),
        ],
        columns=["what", "value"],
    )  # fmt: skip
    segments = by_segment(pd.DataFrame(content["fork_rates"]))
    doubts = collect(caveat(_table(content)), much_prose(segments), lacks)
    if probes[0] is not None:
        doubts += of_record(probes[0].record)
    report = Report(
        f"{tuned['model']} against {base['model']}",
        "A comparison of two probes of the same texts, by ssd-probe.",
        [*content["lines"], *lacks],
        [
            Section("what", "What was compared?", [Table("Settings", settings)]),
            Section(
                "inside",
                "What changed inside?",
                inside(content, folder, tokens, _decoding(content["decoding"])),
            ),
            Section(
                "doubts",
                "What to distrust?",
                [Notes(doubts or ["Nothing was noticed."], bool(doubts))],
            ),
            Section("repeat", "How to repeat it", [Commands(_commands(content, folder))]),
            Section(NAME, TITLE, [Terms(COMPARED)]),
        ],
    )
    return report, tokens


def inside(
    content: dict[str, Any],
    figures: Path,
    tokens: Tokens | None,
    decoding: Decoding,
    beside: str = "",
) -> list[Block]:
    """Verdicts, the statistics by kind of position, the changed positions, the figures.

    beside: what else is to be known of the changed positions.
    """
    table = _table(content)
    shown = comparison_table(table[table["statistic"].isin(FRONT)])
    blocks: list[Block] = [Notes(list(content["lines"]))] if content["lines"] else []
    blocks += [
        Table(
            f"Means at each kind of position{_kinds(content)}, head and tail by the support at "
            f"{decoding}; difference with its 95 % interval over problems",
            shown,
        ),
        Table("All statistics", comparison_table(table), folded=True),
    ]
    if tokens is not None and tokens.changed:
        blocks += [
            Prose(
                "The positions that changed most, one of a problem at most, those with the same "
                "change as one: a lower bound of the total variation between the two "
                "distributions, and the leading tokens."
                + (f" {tokens.alike}{beside}" if tokens.alike else "")
            ),
            *tokens.changed,
        ]
    if gone := [stem for stem in FIGURES if not _is_drawn(figures, stem)]:
        blocks.append(Prose(f"Figures that are not in {figures.name}: {', '.join(gone)}."))
    return blocks + drawn(figures, FIGURES)


def _kinds(content: dict[str, Any]) -> str:
    """What the labels are by, where a record says it: not by the table's decoding."""
    if content.get("rule") != "support":
        return ""
    return f" (kinds by the base's branching at {_decoding(content['labelling'])})"


def _table(content: dict[str, Any]) -> pd.DataFrame:
    """`compare`'s, where JSON has null for no number."""
    table = pd.DataFrame(content["table"])
    return table.astype({name: float for name in _NUMBERS if name in table})


def drawn(folder: Path, stems: tuple[str, ...]) -> list[Block]:
    """The figures of these names that are there."""
    return [Figure.load(folder / stem) for stem in stems if _is_drawn(folder, stem)]


def _is_drawn(folder: Path, stem: str) -> bool:
    return (folder / f"{stem}.svg").is_file()


def _decoding(content: dict[str, Any]) -> Decoding:
    """Of a record, which says the order too."""
    return Decoding(*(content[name] for name in ("temperature", "top_k", "top_p")))


def _commands(content: dict[str, Any], folder: Path) -> list[str]:
    base, tuned, decoding = content["base"], content["tuned"], content["decoding"]
    sides = (
        f"--pair {base['probe']}"
        if tuned["side"] == "other"
        else f"--base {base['probe']} --tuned {tuned['probe']}"
    )
    cut = " ".join(
        f"--{key.replace('_', '-')} {decoding[key]}" for key in ("temperature", "top_k", "top_p")
    )
    return [f"ssd-probe compare {sides} {cut} --rule {content['rule']} --out {folder}"]

"""The report of one probe: what kinds of positions there are, and where."""

from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.compare import MOST_SHARE
from ssd_probe.analysis.labels import FORK, KINDS, SupportRule
from ssd_probe.analysis.rates import by_segment, fork_rates, label_counts
from ssd_probe.commands.loop.typed import command, recorded_flags
from ssd_probe.commands.reporting.tokens import Tokens, tokens_of
from ssd_probe.decoding import LABELLING
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.views.doubts import collect, many_forks, much_prose, of_record
from ssd_probe.views.report.content import (
    Block,
    Commands,
    Notes,
    Prose,
    Report,
    Section,
    Table,
    Terms,
)
from ssd_probe.views.report.terms import NAME, PROBED, TITLE

_STATISTICS = ("entropy", "varentropy", "logprob", "tail_log_mass")
_NAMES = {"logprob": "surprisal", "tail_log_mass": "log mass beyond the ranks"}


def of_probe(folder: Path, most: int) -> tuple[Report, Tokens | None]:
    """Of a probe of one model, or the base's side of a pair."""
    probe = Probe.load(folder)
    record, rule = probe.record, SupportRule()
    counts, means = [], []
    for part in probe.batches():
        labels = rule.label(part)
        counts.append(label_counts(part, labels))
        valid = part[part["valid"]].assign(label=labels[part["valid"]])
        sums = valid.groupby("label")[[*_STATISTICS]].sum()
        means.append(sums.assign(positions=valid.groupby("label").size()))
    table = pd.concat(means).groupby(level=0).sum().reindex([*KINDS]).dropna()
    whole = int(table["positions"].sum())
    shown = table[[*_STATISTICS]].div(table["positions"], axis=0)
    shown["logprob"] *= -1
    shown.insert(0, "positions", table["positions"].astype(int))
    shown.insert(1, "share", table["positions"] / whole)
    told = [f"{whole:,} valid positions of {record['texts']:,} texts: " + ", ".join(
        f"{row.share:.1%} {kind}" for kind, row in zip(shown.index, shown.itertuples(), strict=True)
    ) + "."]  # fmt: skip
    if FORK not in shown.index:
        told.append("There is no fork among them by the default rule.")
    if float(shown["share"].max()) > MOST_SHARE:
        told.append("Nearly all are of one kind: of the others little can be said.")
    tokens = tokens_of(probe, None, [str(record.get("model"))], most)
    rates = fork_rates(counts)
    sections = [
        Section("what", "What was probed?", [Table("Settings", _settings(record))]),
        Section("inside", "What kinds of positions?", [
            Prose(f"By the default rule, at {LABELLING}: one likely token (lock), a few (fork), a "
                  "flat run of many (open), or neither. Means: entropy, surprisal of the text's "
                  "own token and log of the mass beyond the ranks in nats, varentropy in their "
                  "square."),
            Table("Kinds of positions", shown.rename(columns=_NAMES).reset_index(names="label")),
            Table("Share of forks and open positions by where they are", rates, folded=True),
        ]),
        Section("doubts", "What to distrust?", _doubts(record, rates, shown["share"])),
        Section("repeat", "How to repeat it", [Commands([_command(record, folder)])]),
        Section(NAME, TITLE, [Terms(PROBED)]),
    ]  # fmt: skip
    subtitle = "A probe of one model, by ssd-probe: what it expects at each position of the texts."
    return Report(f"{record.get('model')}, probe {folder.name}", subtitle, told, sections), tokens


def _settings(record: dict[str, Any]) -> pd.DataFrame:
    keys = ("model", "source", "texts", "rows", "truncated", "device", "created", "commit")
    rows = [(key, _words(record[key])) for key in keys if record.get(key) is not None]
    rows += [(name, version) for name, version in record.get("versions", {}).items()]
    return pd.DataFrame(rows, columns=["what", "value"]).astype(str)


def _words(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _doubts(record: dict[str, Any], rates: pd.DataFrame, shares: pd.Series) -> list[Block]:
    forks = many_forks(float(shares.get(FORK, 0.0)), str(LABELLING))
    lines = collect(of_record(record), much_prose(by_segment(rates)), forks)
    return [Notes(lines, True)] if lines else [Prose("Nothing was noticed.")]


def _command(record: dict[str, Any], folder: Path) -> str:
    """As it was typed; records of before 2026-11-28 do not name their texts."""
    words: list[Any] = ["probe", "--model", record.get("model")]
    words += [word for each in record.get("source") or ["TEXTS"] for word in ("--text", each)]
    if record.get("limit"):
        words += ["--limit", record["limit"]]
    if record.get("style", "raw") != "raw":
        words += ["--style", record["style"]]
    if record.get("other_model"):
        words += ["--pair", record["other_model"]]
    return command([*words, *recorded_flags(ProbeConfig, record["settings"]), "--out", folder])

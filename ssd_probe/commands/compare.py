"""`ssd-probe compare`: two probes of the same texts in; no model is loaded here."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.errors import UserError
from ssd_probe.executors import ALONE, Crew, crew
from ssd_probe.files.writing import write_json
from ssd_probe.probing.table import Probe, require_comparable

if TYPE_CHECKING:
    import pandas as pd

COMPARISON = "comparison.json"  # what a folder of `compare --out` is of
LEAST_POSITIONS = 2**18  # from which on processes save more than their start takes
PRELOAD = ("ssd_probe.analysis.digest", "ssd_probe.probing.table",
           "ssd_probe.figures.comparison_set")  # fmt: skip
RULES = ("support", "entropy", "quantile")


def compare_stage(
    base: Path | None,
    tuned: Path | None,
    pair: Path | None,
    decoding: Decoding,
    rule: str = "support",
    out: Path | None = None,
    labelling: Decoding = LABELLING,
    scheduler: str | None = None,
    workers: int | None = None,
) -> "Compared":
    """Two probes of the same texts -> their `Digest`, and what sums it up.

    decoding: of the tuned model's training samples; labelling: of the support rule. Read part by
    part, by `crew_for` scheduler and workers. With `out`: figures, tables as Markdown, LaTeX and
    CSV, and what is missing.
    """
    from ssd_probe.analysis.digest import digest
    from ssd_probe.views.comparison import sentences

    before, after = _sides(base, tuned, pair)
    with crew_for(before, scheduler, workers) as workforce:
        found = digest(
            part_readers(before, after),
            rule_of(rule, before, labelling),
            decoding,
            where=f"{len(before):,} positions of {before.path.name}, labelled by the {rule} rule",
            noise=before.noise,
            tokenizer=None if out is None else tokenizer_of(before, after),
            crew=workforce,
        )
        written = [] if out is None else _write_comparison(found, out, workforce)
    lines = sentences(found)
    if out is not None:
        about = {
            "base": _about(before),
            "tuned": _about(after),
            "rule": rule, "labelling": labelling.to_dict(), "decoding": decoding.to_dict(),
        }  # fmt: skip
        write_json(out / COMPARISON, {**about, "lines": lines, **content_of(found)})
    return Compared(found, lines, written)


def crew_for(
    probe: Probe, scheduler: str | None = None, workers: int | None = None
) -> AbstractContextManager[Crew]:
    """Who reads the probe's parts: see `executors.crew`. A short one is left to this process."""
    if scheduler is None and workers is None and len(probe) < LEAST_POSITIONS:
        workers = 1
    return crew(probe.record["parts"], scheduler, workers, PRELOAD)


class Compared(NamedTuple):
    """A comparison: its `Digest`, sentences, and the lines of `Saved` about its files."""

    found: Any
    sentences: list[str]
    files: list[str]


def _about(probe: Probe) -> dict[str, str]:
    model = probe.record.get("other_model" if probe.side == "other" else "model")
    return {"probe": str(probe.path.resolve()), "side": probe.side, "model": str(model)}


def content_of(found: Any) -> dict[str, Any]:
    """A `Digest` in numbers and sentences, for --json and comparison.json."""
    from ssd_probe.analysis.compare import kind_counts
    from ssd_probe.views.comparison import sentence

    return {
        "table": found.comparison.to_dict("records"),
        "positions": kind_counts(found.comparison),
        "verdicts": [
            {"claim": verdict.claim, "holds": verdict.holds, "sentence": sentence(verdict)}
            for verdict in found.verdicts
        ],
        "leverage": found.leverage and found.leverage._asdict(),
        "fork_rates": found.rates.to_dict("records"),
    }


def paired_parts(
    base: Probe,
    tuned: Probe,
    columns: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> "Iterator[tuple[pd.DataFrame, pd.DataFrame]]":
    """Both probes part by part; columns: of each, None being all.

    Raises UserError unless they hold the same texts in like parts.
    """
    return (part() for part in part_readers(base, tuned, columns))


def part_readers(
    base: Probe,
    tuned: Probe,
    columns: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> "list[partial[tuple[pd.DataFrame, pd.DataFrame]]]":
    """The same as calls for a `Crew`, whose workers read the parts themselves."""
    if len(base) != len(tuned) or base.record["parts"] != tuned.record["parts"]:
        raise UserError(f"the probes differ: {len(base)} base rows, {len(tuned)} tuned rows")
    return [partial(_read, base, tuned, columns, n) for n in range(base.record["parts"])]


def _read(base: Probe, tuned: Probe, columns: Any, number: int) -> Any:
    return base.part(number, columns[0]), tuned.part(number, columns[1])


def rule_of(name: str, probe: Probe, labelling: Decoding = LABELLING) -> Any:
    """The rule of a name, its quantiles taken over the whole probe."""
    from ssd_probe.analysis.labels import EntropyRule, QuantileRule, SupportRule

    if name == "support":
        return SupportRule(labelling)
    if name == "entropy":
        return EntropyRule()
    if name == "quantile":
        parts = probe.batches(["entropy", "valid"])
        return QuantileRule().fitted(part["entropy"][part["valid"]].to_numpy() for part in parts)
    raise UserError(f"--rule {name}: choose {', '.join(RULES)}")


def _write_comparison(found: Any, out: Path, crew: Crew) -> list[str]:
    from ssd_probe.analysis.sweeps.printed import comparison_table, write_table
    from ssd_probe.figures.comparison_set import draw_digest

    drawn = draw_digest(found, out, crew=crew if crew.is_near else ALONE)
    tables = write_table(comparison_table(found.comparison), out / "comparison")
    for name, frame in (("comparison", found.comparison), ("fork_rates", found.rates)):
        path = out / f"{name}.csv"
        frame.to_csv(path, index=False)
        tables.append(path)
    return drawn._replace(paths=[*drawn.paths, *tables]).lines()


def tokenizer_of(*probes: Probe | None) -> Any:
    """Of the first probed model that is on this machine, to name tokens; None where none is.

    Probes that are comparable have one vocabulary: a student's tokenizer names its base's tokens.
    """
    from ssd_probe.models.checkpoints import is_here, load_tokenizer

    models = (str(probe.record.get("model")) for probe in probes if probe is not None)
    return next((load_tokenizer(model) for model in models if is_here(model)), None)


def _sides(base: Path | None, tuned: Path | None, pair: Path | None) -> tuple[Probe, Probe]:
    """The two probes; refused where ids stand for other tokens in one than in the other."""
    if pair is not None:
        if base or tuned:
            raise UserError("give either --pair, or --base and --tuned")
        return Probe.load(pair), Probe.load(pair, side="other")
    if base is None or tuned is None:
        raise UserError("give --base and --tuned, or --pair")
    before, after = Probe.load(base), Probe.load(tuned)
    require_comparable(before, after)
    return before, after

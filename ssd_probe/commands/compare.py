"""`ssd-probe compare`: two probes of the same texts in; no model is loaded here."""

from pathlib import Path
from typing import Any

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.probing.table import Probe, require_comparable

RULES = ("support", "entropy", "quantile")


def compare_stage(
    base: Path | None,
    tuned: Path | None,
    pair: Path | None,
    decoding: Decoding,
    rule: str = "support",
    out: Path | None = None,
) -> tuple[Any, list[str]]:
    """Two probes of the same texts -> their `Digest`, and the lines that sum it up.

    Read part by part. With `out`: figures, tables as Markdown, LaTeX and CSV, and what is missing.
    """
    from ssd_probe.analysis.digest import digest

    before, after = _sides(base, tuned, pair)
    if len(before) != len(after) or before.record["parts"] != after.record["parts"]:
        raise UserError(f"the probes differ: {len(before)} base rows, {len(after)} tuned rows")
    parts = zip(before.batches(), after.batches(), strict=True)
    found = digest(parts, _rule(rule, before, decoding), decoding, noise=before.noise)
    lines = [verdict.sentence for verdict in found.verdicts]
    if out is not None:
        lines += _write_comparison(found, before, decoding, rule, out)
    return found, lines


def _rule(name: str, probe: Probe, decoding: Decoding) -> Any:
    """The rule of a name, its quantiles taken over the whole probe."""
    from ssd_probe.analysis.labels import EntropyRule, QuantileRule, SupportRule

    if name == "support":
        return SupportRule(decoding)
    if name == "entropy":
        return EntropyRule()
    if name == "quantile":
        parts = probe.batches(["entropy", "valid"])
        return QuantileRule().fitted(part["entropy"][part["valid"]].to_numpy() for part in parts)
    raise UserError(f"--rule {name}: choose {', '.join(RULES)}")


def _write_comparison(
    found: Any, probe: Probe, decoding: Decoding, rule: str, out: Path
) -> list[str]:
    from ssd_probe.analysis.sweeps.tables import comparison_table, write_table
    from ssd_probe.figures.draw_probes import draw_digest

    tokenizer = _tokenizer_of(probe)
    where = f"{len(probe)} positions of {probe.path.name}, locks and forks by the {rule} rule"
    paths, missing = draw_digest(found, out, where, decoding, tokenizer)
    paths += write_table(comparison_table(found.comparison), out / "comparison")
    for name, frame in (("comparison", found.comparison), ("fork_rates", found.rates)):
        path = out / f"{name}.csv"
        frame.to_csv(path, index=False)
        paths.append(path)
    return [*(f"{path}" for path in paths), *(f"no {name}: {why}" for name, why in missing)]


def _tokenizer_of(probe: Probe) -> Any:
    """Of the probed model, to name tokens; None where the model is not on this machine."""
    from ssd_probe.models.checkpoints import load_tokenizer

    model = str(probe.record.get("model"))
    return load_tokenizer(model) if model == "tiny" or Path(model).is_dir() else None


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

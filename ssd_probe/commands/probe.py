"""`ssd-probe probe`: texts by name in, a probe folder out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssd_probe.probing.config import ProbeConfig


def probe_stage(
    model: str,
    sources: list[str],
    out: Path,
    config: ProbeConfig,
    *,
    pair: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    load_in: str | None = None,
    style: str = "raw",
) -> list[str]:
    """Probe the texts of `sources` into `out`; what to tell the person, line by line."""
    from ssd_probe.models.checkpoints import quantised
    from ssd_probe.probing.probe import probe
    from ssd_probe.problems.texts import read_texts

    texts = read_texts(sources, limit, style)
    config = replace(config, model_kwargs={**config.model_kwargs, **quantised(load_in)})
    said = source_of(sources, limit, style)
    done = probe(model, texts, out, config, pair=pair, revision=revision, source=said)
    if not done.finished:
        return [f"{out}: {len(done)} positions so far; other ranks are still at work"]
    lines, record = [f"{len(done)} positions in {out}"], done.record
    if padding := record.get("padding_mass"):
        lines.append(
            f"mass on the output layer's {record['head_rows'] - record['tokens']} rows that are no "
            f"tokens: {padding['mean']:.2g} on average, {padding['max']:.2g} at most"
        )
    if verified := record.get("verified"):
        errors = ", ".join(f"{name} {e:.1e}" for name, e in verified["largest_error"].items())
        lines.append(
            f"largest error of {verified['positions']} positions against float64 statistics of the "
            f"model's own {verified['logits']} logits: {errors}"
        )
    if noise := record.get("noise"):
        lines.append(
            f"scored again in other batches, {noise['texts']} texts differ by up to "
            f"{noise['entropy']:.1e} nats of entropy; `compare` uses it as a floor"
        )
    return lines


def source_of(sources: Sequence[str], limit: int | None, style: str = "raw") -> dict[str, Any]:
    """For a probe's record: its texts by name, as `probe_stage` was given them."""
    return {"source": list(map(str, sources)), "limit": limit, "style": style}

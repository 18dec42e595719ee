"""The steps of SSD as commands run them: names in, files out, settings recorded beside them."""

import json
import os
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ssd_probe.checkpoints import load_model, load_tokenizer, model_identity
from ssd_probe.data import read_jsonl, read_prompts
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.run import begin, claim, write_json


class Checkpoint:
    """A model by name, hashed and loaded when first asked for, and once."""

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name, self.device = name, device

    @cached_property
    def identity(self) -> str:
        return model_identity(self.name)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        return load_tokenizer(self.name), load_model(self.name, device=self.device)


def sample_stage(
    model: str | Checkpoint,
    prompts: str,
    decoding: Decoding,
    out: Path,
    *,
    limit: int | None = None,
    device: str | None = None,
    **options: Any,
) -> list[dict]:
    """Sample into `out`; its record `out`.run.json refuses other settings for the same file.

    A `Checkpoint` (instead of a name and `device`) stays loaded for the caller's next file.
    """
    from ssd_probe.sample import sample_to_file

    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model, device)
    chosen = read_prompts(prompts, limit)
    settings = {
        "weights": checkpoint.identity,
        "prompts": _digest([(p.problem_id, p.messages, p.text) for p in chosen]),
        "decoding": decoding.to_dict(),
        **options,
    }
    with claim(out, is_file=True):
        about = {"model": checkpoint.name, "source": str(prompts), "prompts": len(chosen)}
        begin(out.with_name(out.name + ".run.json"), settings, about)
        if out.exists():
            return read_jsonl(out)
        tokenizer, loaded = checkpoint.loaded
        return sample_to_file(out, loaded, tokenizer, chosen, decoding, **options)


def train_stage(model: str, samples: Path, config: Any, out: Path) -> None:
    """Fine-tune into the checkpoint folder `out`, whose `done.json` says that it is complete.

    Under `accelerate launch` or `torchrun` every rank calls this; the first one keeps the records.
    """
    from ssd_probe.sample import usable
    from ssd_probe.train import train

    rows = read_jsonl(samples)
    kept = usable(rows)
    settings = {"weights": model_identity(model), "samples": _digest(rows), **asdict(config)}
    first = os.environ.get("RANK", "0") == "0"
    with claim(out) if first else nullcontext():
        if first:
            about = {"model": model, "source": str(samples), "of": len(rows), "used": len(kept)}
            begin(out / "run.json", settings, about)
        if (out / "done.json").exists():
            return
        loaded = load_model(model, device="cpu", dtype="float32")  # the Trainer places it
        metrics = train(loaded, load_tokenizer(model), kept, config, out)
        if first:
            write_json(out / "done.json", {"last": metrics[-1] if metrics else None})


def _digest(content: object) -> str:
    """SHA-256 of anything that JSON can hold."""
    return sha256(json.dumps(content).encode()).hexdigest()


def probe_stage(
    model: str,
    sources: list[str],
    out: Path,
    *,
    limit: int | None = None,
    load_in: str | None = None,
    **options: Any,
) -> list[str]:
    """Probe the texts of `sources` into `out`; what to tell the person, line by line."""
    from ssd_probe.probe import probe
    from ssd_probe.texts import read_texts

    texts = read_texts(sources, limit)
    done = probe(model, texts, out, model_kwargs=_quantised(load_in), **options)
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


def _quantised(load_in: str | None) -> dict[str, Any]:
    """Keyword arguments of from_pretrained for weights of 4 or 8 bits."""
    if load_in is None:
        return {}
    if load_in not in ("4bit", "8bit"):
        raise UserError(f"--load-in {load_in}: choose 4bit or 8bit")
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{load_in}": True})}


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
    if len(before) != len(after) or len(before) == 0:
        raise UserError(f"the probes differ: {len(before)} base rows, {len(after)} tuned rows")
    parts = zip(before.batches(), after.batches(), strict=True)
    found = digest(parts, _rule(rule, before, decoding), decoding, noise=before.noise)
    lines = [verdict.sentence for verdict in found.verdicts]
    if out is not None:
        lines += _write_comparison(found, before, decoding, rule, out)
    return found, lines


def _rule(name: str, probe: Any, decoding: Decoding) -> Any:
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
    found: Any, probe: Any, decoding: Decoding, rule: str, out: Path
) -> list[str]:
    from ssd_probe.analysis.tables import comparison_table, write_table
    from ssd_probe.draw_probes import draw_digest

    tokenizer = _tokenizer_of(probe)
    where = f"{len(probe)} positions of {probe.path.name}, locks and forks by the {rule} rule"
    paths, missing = draw_digest(found, out, where, decoding, tokenizer)
    paths += write_table(comparison_table(found.comparison), out / "comparison")
    for name, frame in (("comparison", found.comparison), ("fork_rates", found.rates)):
        path = out / f"{name}.csv"
        frame.to_csv(path, index=False)
        paths.append(path)
    return [*(f"{path}" for path in paths), *(f"no {name}: {why}" for name, why in missing)]


def _tokenizer_of(probe: Any) -> Any:
    """Of the probed model, to name tokens; None where the model is not on this machine."""
    model = str(probe.record.get("model"))
    return load_tokenizer(model) if model == "tiny" or Path(model).is_dir() else None


def _sides(base: Path | None, tuned: Path | None, pair: Path | None) -> tuple[Any, Any]:
    """The two probes; refused where ids stand for other tokens in one than in the other."""
    from ssd_probe.probe import Probe

    if pair is not None:
        if base or tuned:
            raise UserError("give either --pair, or --base and --tuned")
        return Probe.load(pair), Probe.load(pair, side="other")
    if base is None or tuned is None:
        raise UserError("give --base and --tuned, or --pair")
    before, after = Probe.load(base), Probe.load(tuned)
    for key, what in (("tokenizer", "tokenizers"), ("head_rows", "numbers of output rows")):
        if before.record.get(key) != after.record.get(key):
            raise UserError(f"{base} and {tuned} have different {what}: nothing can be compared")
    return before, after


def figures_stage(
    run: Path | None, sweep: Path | None, published: bool, out: Path | None
) -> list[str]:
    """Draw what there is data for; the files, then what is missing and why."""
    from ssd_probe.analysis.sweep_table import read_sweep
    from ssd_probe.draw_sweeps import draw_published, draw_sweep
    from ssd_probe.story import draw_figures

    if run is None and sweep is None and not published:
        raise UserError("nothing to draw: give a run folder, --sweep FILE, or --published")
    if out is None and (sweep or published):
        if run is None:
            raise UserError("--sweep and --published need --out, the folder to draw into")
        out = run / "figures"
    table = None if sweep is None else read_sweep(sweep)
    paths: list[Path] = []
    missing: list[tuple[str, str]] = []
    if run is not None:
        drawn, lacking = draw_figures(run, out)
        paths, missing = paths + drawn, missing + lacking
    if table is not None and out is not None:
        drawn, lacking = draw_sweep(table, out)
        paths, missing = paths + drawn, missing + lacking
    if published and out is not None:
        paths += draw_published(out, table)
    return [*map(str, paths), *(f"no {name}: {why}" for name, why in missing)]

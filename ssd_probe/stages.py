"""The steps of SSD as commands run them: names in, files out, settings recorded beside them."""

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.checkpoints import load_model, load_tokenizer, resolve_model, weights_sha256
from ssd_probe.data import read_jsonl, read_prompts
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.run import begin, claim, write_json


def identity(model: str) -> dict:
    """What pins a model in a record: its name and, for local weights, their hash."""
    path = Path(resolve_model(model))
    return {"model": model, "weights_sha256": weights_sha256(path) if path.is_dir() else None}


def sample_stage(
    model: str,
    prompts: str,
    decoding: Decoding,
    out: Path,
    *,
    limit: int | None = None,
    device: str | None = None,
    **options: Any,
) -> list[dict]:
    """Sample into `out`; its record `out`.run.json refuses other settings for the same file."""
    from ssd_probe.sample import sample_to_file

    chosen = read_prompts(prompts, limit)
    settings = {"prompts": str(prompts), "limit": limit, "decoding": decoding.to_dict(), **options}
    with claim(out.parent):
        begin(out.with_name(out.name + ".run.json"), identity(model) | settings)
        if out.exists():
            return read_jsonl(out)
        tokenizer, loaded = load_tokenizer(model), load_model(model, device=device)
        return sample_to_file(out, loaded, tokenizer, chosen, decoding, **options)


def train_stage(model: str, samples: Path, config: Any, out: Path, *, device: str | None = None):
    """Fine-tune into the checkpoint folder `out`; done when its metrics and weights are there."""
    from ssd_probe.sample import usable
    from ssd_probe.train import train

    rows = read_jsonl(samples)
    kept = usable(rows)
    data = {"samples_sha256": sha256(samples.read_bytes()).hexdigest(), "used": len(kept)}
    with claim(out):
        begin(out / "run.json", identity(model) | data | asdict(config))
        if (out / "done.json").exists():
            return
        loaded = load_model(model, device=device, dtype="float32")
        metrics = train(loaded, load_tokenizer(model), kept, config, out)
        write_json(out / "done.json", {"last": metrics[-1] if metrics else None})


def compare_stage(base: Path, tuned: Path, decoding: Decoding) -> tuple[pd.DataFrame, list[str]]:
    """Two probes of the same texts -> the table by label, and the sentences that sum it up."""
    from ssd_probe.analysis.compare import compare, verdicts
    from ssd_probe.analysis.labels import SupportRule
    from ssd_probe.probe import Probe

    before, after = Probe.load(base).frame, Probe.load(tuned).frame
    table = compare(before, after, SupportRule(decoding).label(before), decoding)
    return table, [verdict.sentence for verdict in verdicts(table)]


def evaluate_stage(
    problems: str, samples: Path, *, workers: int = 2, seconds: float = 3.0, ks: list[int]
) -> dict:
    """Run the samples: `results` (task_id, verdict, detail) and `pass_at_k` rows."""
    from ssd_probe.analysis.passk import pass_table
    from ssd_probe.evaluate import evaluate, load_tasks

    results = evaluate(read_jsonl(samples), load_tasks(problems), workers=workers, seconds=seconds)
    fewest = int(results.groupby("problem_id").size().min())
    if fewest < min(ks):
        raise UserError(f"{samples}: {fewest} sample(s) a problem, too few for pass@{min(ks)}")
    usable_ks = tuple(k for k in ks if k <= fewest)
    clean = results[results["verdict"] != "infra_error"]
    rows = results.rename(columns={"problem_id": "task_id"})
    return {
        "results": rows[["task_id", "verdict", "detail"]].to_dict("records"),
        "pass_at_k": pass_table(clean, ks=usable_ks).to_dict("records"),
    }

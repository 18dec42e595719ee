"""The steps of SSD as commands run them: names in, files out, settings recorded beside them."""

import json
import os
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.checkpoints import load_model, load_tokenizer, model_identity
from ssd_probe.data import read_jsonl, read_prompts
from ssd_probe.decoding import Decoding
from ssd_probe.run import begin, claim, write_json


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
    settings = {
        "weights": model_identity(model),
        "prompts": _digest([(p.problem_id, p.messages, p.text) for p in chosen]),
        "decoding": decoding.to_dict(),
        **options,
    }
    with claim(out, is_file=True):
        about = {"model": model, "source": str(prompts), "prompts": len(chosen)}
        begin(out.with_name(out.name + ".run.json"), settings, about)
        if out.exists():
            return read_jsonl(out)
        tokenizer, loaded = load_tokenizer(model), load_model(model, device=device)
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


def compare_stage(base: Path, tuned: Path, decoding: Decoding) -> tuple[pd.DataFrame, list[str]]:
    """Two probes of the same texts -> the table by label, and the sentences that sum it up."""
    from ssd_probe.analysis.compare import compare, verdicts
    from ssd_probe.analysis.labels import SupportRule
    from ssd_probe.probe import Probe

    before, after = Probe.load(base).frame, Probe.load(tuned).frame
    table = compare(before, after, SupportRule(decoding).label(before), decoding)
    return table, [verdict.sentence for verdict in verdicts(table)]


def evaluate_stage(
    problems: str, samples: Path, ks: list[int] | None, *, workers: int = 2, seconds: float = 3.0
) -> dict:
    """Run the samples: `results` (task_id, verdict, detail) and `pass_at_k` rows.

    Without `ks`, pass@1 and, where every problem has five samples, pass@5. Programs that could not
    be run (`infra_error`) are in `results` and in no pass@k.
    """
    from ssd_probe.analysis.passk import pass_table
    from ssd_probe.evaluate import evaluate, load_tasks

    results = evaluate(read_jsonl(samples), load_tasks(problems), workers=workers, seconds=seconds)
    fewest = results.groupby("problem_id").size().min()
    ks = ks or [k for k in (1, 5) if k <= fewest]
    clean = results[results["verdict"] != "infra_error"]
    rows = results.rename(columns={"problem_id": "task_id"})
    return {
        "results": rows[["task_id", "verdict", "detail"]].to_dict("records"),
        "pass_at_k": pass_table(clean, ks=ks).to_dict("records"),
    }

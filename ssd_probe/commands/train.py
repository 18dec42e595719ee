"""`ssd-probe train`: raw samples in, a checkpoint folder out, its settings recorded in it."""

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from ssd_probe.core.config import TrainConfig
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, recording
from ssd_probe.files.writing import write_json
from ssd_probe.models.checkpoints import device_name, load_model, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.views.doubts import collect, cut_samples, short_training


def train_stage(model: str, samples: Path, config: TrainConfig, out: Path) -> None:
    """Fine-tune into the checkpoint folder `out`, whose `done.json` says that it is complete.

    Under `accelerate launch` or `torchrun` every rank calls this; the first one keeps the records.
    """
    from ssd_probe.core.sample import usable
    from ssd_probe.core.train import fitting, listed, train, world

    rows = read_jsonl(samples)
    base = Checkpoint(model)
    kept = usable(rows, base.tokenizer)
    settings = {"model": base.identity, "samples": digest(rows), **asdict(config)}
    first = os.environ.get("RANK", "0") == "0"
    about = {**named(model), "source": str(samples), "of": len(rows)}
    about |= {"device": device_name(None)}
    record = out / "run.json"
    with ExitStack() as held:
        if first:
            held.enter_context(claim(out))
            made = [file for file in out.iterdir() if not file.name.startswith(".")]
            held.enter_context(recording(record, settings, about, made))
        if (out / "done.json").exists():
            return
        loaded = load_model(model, device="cpu", dtype="float32")  # the Trainer places it
        used, dropped = fitting(kept, loaded, config)
        if stubs := len(rows) - len(kept):
            dropped = {"empty or of one line": stubs, **dropped}
        if not used:
            raise UserError(f"{samples}: nothing to train on: {listed(len(rows), dropped)}")
        if first:
            steps = config.steps(len(used), world())
            planned = {"steps": steps, "warmup_steps": config.warmup(steps)}
            doubts = training_doubts(rows, config, **planned)
            add(record, used=len(used), dropped=dropped, planned=planned, doubts=doubts)
            if dropped:
                print(f"training: {listed(len(rows), dropped)}", file=sys.stderr)
            for doubt in doubts:
                print(f"note: {doubt}", file=sys.stderr)
        metrics = train(loaded, base.tokenizer, used, config, out)
        if first:
            write_json(out / "done.json", {"last": metrics[-1] if metrics else None})


def training_doubts(
    rows: list[dict], config: TrainConfig, steps: int, warmup_steps: int
) -> list[str]:
    """Why a training of so many steps on these samples may show nothing, in sentences."""
    cut = sum(row.get("finished") is False for row in rows)
    return collect(
        short_training(steps, warmup_steps),
        cut_samples(cut, len(rows), kept=not config.drop_unfinished),
    )

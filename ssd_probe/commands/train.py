"""`ssd-probe train`: raw samples in, a checkpoint folder out, its settings recorded in it."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_probe.core.config import TrainConfig
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, read_record, recording
from ssd_probe.files.writing import write_json
from ssd_probe.models.checkpoints import device_name, load_model, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.problems.texts import Text, read_texts
from ssd_probe.views.doubts import collect, cut_samples, not_held_out, short_training


@dataclass(frozen=True)
class Watch:
    """What `train --watch` looks at: held-out texts, and how often (None: it adapts)."""

    texts: Sequence[str]
    every: int | None = None


def train_stage(
    model: str, samples: Path, config: TrainConfig, out: Path, watch: Watch | None = None
) -> None:
    """Fine-tune into the checkpoint folder `out`, whose `done.json` says that it is complete.

    `watch`: see `ForkLockCallback`; it changes no weight, and leaves its files in `out`/watch.
    Under `accelerate launch` or `torchrun` every rank calls this; the first one keeps the records.
    """
    from ssd_probe.core.sample import usable
    from ssd_probe.core.train import arguments_of, train, world
    from ssd_probe.core.training.batches import fitting, listed

    rows = read_jsonl(samples)
    base = Checkpoint(model)
    kept = usable(rows, base.tokenizer)
    settings = {"model": base.identity, "samples": digest(rows), **config.recorded()}
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
        watched = read_texts(_watchable(watch.texts)) if watch else []
        arguments = arguments_of(config, out)  # first: a sharded model is loaded in parts
        kept_dtype = "bfloat16" if config.half and config.lora_rank else "float32"
        attn = None if config.flash else config.attn
        loaded = load_model(model, kept_dtype, "cpu", attn)  # the Trainer places it
        used, dropped = fitting(kept, loaded, config)
        if stubs := len(rows) - len(kept):
            dropped = {"empty or of one line": stubs, **dropped}
        if not used:
            raise UserError(f"{samples}: nothing to train on: {listed(len(rows), dropped)}")
        if first:
            steps = config.steps(len(used), world())
            planned = {"steps": steps, "warmup_steps": config.warmup(steps)}
            doubts = training_doubts(rows, config, **planned)
            doubts += collect(_trained_on(watched, kept))
            add(record, used=len(used), dropped=dropped, planned=planned, doubts=doubts)
            if dropped:
                print(f"training {out.name}: {listed(len(rows), dropped)}", file=sys.stderr)
            for doubt in doubts:
                print(f"note: {out.name}: {doubt}", file=sys.stderr)
        watcher = _watcher(watch, watched, base.tokenizer, decoding_of(samples), out / "watch")
        metrics = train(loaded, base.tokenizer, used, config, out, watcher, arguments)
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


def _watchable(sources: Sequence[str]) -> Sequence[str]:
    for source in sources:
        if (Path(source) / "probe.json").is_file():
            raise UserError(
                f"{source}: a probe keeps no prompts; watch the texts that it was made of"
            )
    return sources


def decoding_of(samples: Path) -> Decoding:
    """What the samples were drawn by, as their record says; else, or beyond ranks, the paper's."""
    record = samples.with_name(samples.name + ".run.json")
    if samples.name == "samples.jsonl" and not record.is_file():
        record = samples.with_name("run.json")  # of shards
    found = read_record(record)["settings"].get("decoding") if record.is_file() else None
    if not isinstance(found, dict) or "policy" in found:
        return PAPER_TRAIN
    decoding = Decoding(*(found[name] for name in ("temperature", "top_k", "top_p")))
    known = 0 < decoding.top_k <= ProbeConfig.top_k and not decoding.is_greedy
    return decoding if known else PAPER_TRAIN


def _trained_on(watched: Sequence[Text], rows: Sequence[dict]) -> str | None:
    """A doubt, where texts to watch answer problems that are trained on."""
    trained = {row.get("problem_id") for row in rows} - {None}
    return not_held_out(sum(text.problem_id in trained for text in watched), len(watched))


def _watcher(
    watch: Watch | None, texts: Sequence[Text], tokenizer: Any, decoding: Decoding, out: Path
) -> Callable[[Any], Any] | None:
    if watch is None:
        return None
    from ssd_probe.watching.callback import ForkLockCallback

    every = watch.every

    def make(trainer: Any) -> Any:
        about: dict[str, Any] = {"decoding": decoding, "every": every, "trainer": trainer}
        return ForkLockCallback(texts, tokenizer, out=out, **about)

    return make

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

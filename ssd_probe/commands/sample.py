"""`ssd-probe sample`: a model and prompts by name in, samples out, settings recorded beside."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, recording
from ssd_probe.models.checkpoints import device_name, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.tokens import turn_ends
from ssd_probe.problems.prompts import STYLES, Prompt, read_prompts


def sample_stage(
    model: str | Checkpoint,
    prompts: str,
    decoding: Decoding,
    out: Path,
    config: SampleConfig,
    *,
    limit: int | None = None,
    device: str | None = None,
    style: str = "auto",
) -> list[dict]:
    """Sample into `out`; its record `out`.run.json refuses other settings for the same file.

    `style` of a benchmark's prompts: `chat`, `raw`, or `auto`, chat for models with a template.
    A `Checkpoint` (instead of a name and `device`) stays loaded for the caller's next file.
    """
    from ssd_probe.core.batching import batching
    from ssd_probe.core.sample import at_context, sample_to_file

    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model, device)
    style = style_for(prompts, checkpoint.tokenizer, style)
    chosen = read_prompts(prompts, limit, style)
    settings = {
        "model": checkpoint.identity,
        "prompts": digest(chosen),
        "decoding": decoding.to_dict(),
        **config.recorded(),
    }
    with claim(out, is_file=True):
        about = {
            **named(checkpoint.name),
            "source": str(prompts),
            "prompts": len(chosen),
            "style": style,
            "device": device_name(checkpoint.device),
        }
        made = out, out.with_name(out.name + ".part")
        record = out.with_name(out.name + ".run.json")
        with recording(record, settings, about, made):
            if out.exists():
                return read_jsonl(out)
            loaded, tokenizer = checkpoint.model, checkpoint.tokenizer
            doubts = _doubts(loaded, tokenizer, chosen)
            for doubt in doubts:
                print(doubt, file=sys.stderr)
            how = batching(loaded)
            rows = sample_to_file(out, loaded, tokenizer, chosen, decoding, config, how=how)
            finished = sum(row["finished"] for row in rows)
            counts = {"finished": finished, "ended_at_context": at_context(loaded, rows)}
            add(record, batches=how, samples=len(rows), doubts=doubts, **counts)
            return rows


def style_for(prompts: str | Path, tokenizer: Any, style: str = "auto") -> str:
    """`chat` or `raw`: as asked, else chat where there is a template. `UserError` for others."""
    if style not in STYLES:
        raise UserError(f"style = {style!r}: must be one of {', '.join(STYLES)}")
    if style != "auto":
        return style
    return "chat" if tokenizer.chat_template or str(prompts).startswith("tiny:") else "raw"


def _doubts(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> list[str]:
    """What makes one think that the prompts are not of the model's kind, a line each."""
    from ssd_probe.core.drawing import stop_ids

    ends = turn_ends(tokenizer) if tokenizer.chat_template else set()
    raw = sum(prompt.messages is None for prompt in prompts)
    doubts = []
    if tokenizer.chat_template and raw and ends & stop_ids(model, tokenizer):
        doubts.append(
            f"{raw} of {len(prompts)} prompts are raw text, and this is a chat model: its template "
            "is not used; a benchmark's prompts are asked in chat with --style chat"
        )
    if raw < len(prompts) and ends and not ends & stop_ids(model, tokenizer):
        doubts.append(
            f"{len(prompts) - raw} of {len(prompts)} prompts are chat, and this looks like a base "
            "model: no stop token of it ends a turn of its template; a benchmark's prompts are "
            "asked as text with --style raw"
        )
    return doubts

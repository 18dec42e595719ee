"""`ssd-probe sample`: a model and prompts by name in, samples out, settings recorded beside."""

from pathlib import Path

from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, recording
from ssd_probe.models.checkpoints import device_name, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.problems.prompts import read_prompts


def sample_stage(
    model: str | Checkpoint,
    prompts: str,
    decoding: Decoding,
    out: Path,
    config: SampleConfig,
    *,
    limit: int | None = None,
    device: str | None = None,
) -> list[dict]:
    """Sample into `out`; its record `out`.run.json refuses other settings for the same file.

    A `Checkpoint` (instead of a name and `device`) stays loaded for the caller's next file.
    """
    from ssd_probe.core.batching import batching
    from ssd_probe.core.sample import at_context, sample_to_file

    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model, device)
    chosen = read_prompts(prompts, limit)
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
            "device": device_name(checkpoint.device),
        }
        made = out, out.with_name(out.name + ".part")
        record = out.with_name(out.name + ".run.json")
        with recording(record, settings, about, made):
            if out.exists():
                return read_jsonl(out)
            loaded, tokenizer = checkpoint.model, checkpoint.tokenizer
            how = batching(loaded)
            rows = sample_to_file(out, loaded, tokenizer, chosen, decoding, config, how=how)
            finished = sum(row["finished"] for row in rows)
            counts = {"finished": finished, "ended_at_context": at_context(loaded, rows)}
            add(record, batches=how, samples=len(rows), **counts)
            return rows

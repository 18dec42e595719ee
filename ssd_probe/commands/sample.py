"""`ssd-probe sample`: a model and prompts by name in, samples out, settings recorded beside."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from ssd_probe.commands.sampling.certificates import certified
from ssd_probe.commands.sampling.shards import Job, Shard, say, share
from ssd_probe.core.config import SampleConfig
from ssd_probe.core.requests import CONTEXT, Engine
from ssd_probe.decoding import Policy
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, recording
from ssd_probe.models.checkpoints import device_name, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.problems.prompts import STYLES, Prompt, read_prompts, style_of


def sample_stage(
    model: str | Checkpoint,
    prompts: str,
    policy: Policy,
    out: Path,
    config: SampleConfig,
    *,
    limit: int | None = None,
    device: str | None = None,
    style: str = "auto",
    choice: Choice | None = None,
    engine: Engine | None = None,
    shard: Shard | None = None,
    certificate: Path | None = None,
) -> list[dict]:
    """Sample into `out`; its record `out`.run.json refuses other settings for the same file.

    `style` of a benchmark's prompts: `chat`, `raw`, or `auto`, chat for chat models.
    A `Checkpoint` (instead of a name and `device`) stays loaded for the caller's next file, and so
    does its `engine`; without one it is of `choice`.
    With a `shard`, `out` is a folder that all shards fill (`shards.share`), its record run.json;
    the rows are this shard's. `certificate`: of `doctor --engine`, put into the record.
    """
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model, device)
    style = style_for(prompts, checkpoint, style)
    chosen = read_prompts(prompts, limit, style)
    about = {
        **named(checkpoint.name),
        "source": str(prompts),
        "limit": limit,
        "asked": style,
        "prompts": len(chosen),
        "device": device_name(checkpoint.device),
    }
    doubts = _doubts(checkpoint, chosen)
    with ExitStack() as held:
        if engine is None:
            made = engine_of(choice or Choice(), checkpoint, config.batch_size)
            engine = held.enter_context(closing(made))
        settings = {
            "model": checkpoint.identity,
            "style": style_of(chosen),
            "prompts": digest(chosen),
            "decoding": policy.to_dict(),
            **config.recorded(),
            **engine.settings(),
        }
        if certificate is not None:
            about["conformance"] = certified(certificate, checkpoint, engine, policy)
        job = Job(engine, checkpoint.tokenizer, chosen, policy, config, settings, about, doubts)
        return _alone(out, job) if shard is None else share(out, shard, job)


def _alone(out: Path, job: Job) -> list[dict]:
    """All rows, into a file."""
    with claim(out, is_file=True):
        made = out, out.with_name(out.name + ".part")
        record = out.with_name(out.name + ".run.json")
        with recording(record, job.settings, job.about, made, newer={"style"}):
            if out.exists():
                return read_jsonl(out)
            say(job.doubts)
            rows = job.rows(out)
            finished = sum(row["finished"] for row in rows)
            ended = sum(row["stop_reason"] == CONTEXT for row in rows)
            counts = {"finished": finished, "ended_at_context": ended}
            add(record, samples=len(rows), doubts=job.doubts, **counts, **job.engine_said())
            return rows


def style_for(prompts: str | Path, checkpoint: Checkpoint, style: str = "auto") -> str:
    """`chat` or `raw`: as asked, else chat for chat models. `UserError` for others."""
    if style not in STYLES:
        raise UserError(f"style = {style!r}: must be one of {', '.join(STYLES)}")
    if style != "auto":
        return style
    return "chat" if str(prompts).startswith("tiny:") or checkpoint.is_chat else "raw"


def _doubts(checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> list[str]:
    """What makes one think that the prompts are not of the model's kind, a line each."""
    raw, count = sum(prompt.messages is None for prompt in prompts), len(prompts)
    if checkpoint.is_chat and raw:
        return [
            f"{raw} of {count} prompts are raw text, and this is a chat model: its template is not "
            "used; a benchmark's prompts are asked in chat with --style chat"
        ]
    if checkpoint.tokenizer.chat_template and not checkpoint.is_chat and raw < count:
        return [
            f"{count - raw} of {count} prompts are chat, and this looks like a base model: no stop "
            "token of it ends a turn of its template; a benchmark's prompts are asked as text with "
            "--style raw"
        ]
    return []

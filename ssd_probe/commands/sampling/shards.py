"""Samples of one run drawn by several jobs, into one folder; and what is missing there.

Shard i of n answers each n-th prompt, from the i-th on. In the folder: run.json, the settings that
all share; shard-00001-of-00004.jsonl, appearing when it is complete, and what there is of it before
(.part); samples.jsonl, all answers in the order of the prompts, by the shard that ends last.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_probe.core.config import SampleConfig
from ssd_probe.core.requests import Engine, Key, read_part
from ssd_probe.decoding import Policy
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim, is_held, record_lock
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, read_record, recording
from ssd_probe.files.writing import write_jsonl
from ssd_probe.problems.prompts import Prompt, read_prompts

MOST = 10_000
NAMED = 5  # problems that `status` names


@dataclass(frozen=True)
class Shard:
    """One of `count` shares, by its `number` from 1 on."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> "Shard":
        """ "2/8"; `UserError` for anything else."""
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]) <= MOST:
            raise UserError(f"shard {text!r}: must be i/n, from 1/n to n/n, as 2/8")
        return cls(int(found[1]), int(found[2]))

    def has(self, prompt: int) -> bool:
        """Whether the prompt of this number, from 0 on, is in it."""
        return prompt % self.count == self.number - 1

    def file(self, folder: Path) -> Path:
        return folder / f"shard-{self.number:05d}-of-{self.count:05d}.jsonl"

    def all(self) -> Iterator["Shard"]:
        return (Shard(number, self.count) for number in range(1, self.count + 1))


@dataclass(frozen=True)
class Job:
    """What is drawn, by which engine, and what the record says of it."""

    engine: Engine
    tokenizer: Any
    prompts: Sequence[Prompt]
    policy: Policy
    config: SampleConfig
    settings: dict
    about: dict
    doubts: list[str]

    def rows(self, file: Path, **settings: Any) -> list[dict]:
        """Drawn into `file`, or there already."""
        from ssd_probe.core.sample import sample_to_file

        about = (self.tokenizer, self.prompts, self.policy, self.config)
        return sample_to_file(file, self.engine, *about, **settings)

    def engine_said(self) -> dict[str, Any]:
        return self.engine.about(self.policy) | self.engine.found()


def say(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        print(doubt, file=sys.stderr)


def share(out: Path, shard: Shard, job: Job) -> list[dict]:
    """The rows of one shard, drawn or there already.

    `UserError` where the folder is of other settings or another number of shards, or this shard is
    being drawn now.
    """
    if out.is_file():
        raise UserError(f"{out}: is a file; with --shard, --out is a folder that all shards fill")
    record, file = out / "run.json", shard.file(out)
    settings = {**job.settings, "shards": shard.count}
    with claim(out, rank=shard.number):
        with (
            record_lock(out),
            recording(record, settings, {**job.about, "doubts": job.doubts}, [file]),
        ):
            pass
        done = file.exists()
        if not done:
            say(job.doubts)
        rows = job.rows(file, mine=shard.has)
        with record_lock(out):
            if not done:
                add(record, **job.engine_said())
            _join(out, shard, job.prompts)
    return rows


def _join(out: Path, shard: Shard, prompts: Sequence[Prompt]) -> None:
    """Write samples.jsonl if all shards are there."""
    whole = out / "samples.jsonl"
    files = [each.file(out) for each in shard.all()]
    if whole.exists() or not all(file.exists() for file in files):
        return
    order = {prompt.problem_id: number for number, prompt in enumerate(prompts)}
    rows = [row for file in files if file.stat().st_size for row in read_jsonl(file)]
    write_jsonl(whole, sorted(rows, key=lambda row: order[row["problem_id"]]))


def status(out: Path) -> dict[str, Any]:
    """What is missing of samples, whole or in shards: counts, and (problem, index) by name.

    Reads what is there and changes nothing, so that it may be asked while jobs are at work.
    """
    record = out / "run.json" if out.is_dir() else out.with_name(out.name + ".run.json")
    if not record.exists():
        raise UserError(f"{out}: no samples of `ssd-probe sample`; {record.name} is not there")
    found = read_record(record)
    settings = found["settings"]
    if "asked" not in found:
        raise UserError(f"{record}: an older version's; it does not say which prompts were asked")
    prompts = read_prompts(found["source"], found.get("limit"), found["asked"])
    if digest(prompts) != settings["prompts"]:
        raise UserError(f"{found['source']}: other prompts now than those of {record}")
    count = settings.get("shards")
    shards = [*Shard(1, count).all()] if count else []
    files = [shard.file(out) for shard in shards] or [out]
    drawn = {key for file in files for key in _drawn(file)}
    wanted = {(p.problem_id, i): None for p in prompts for i in range(settings["n"])}
    missing: dict[str, list[int]] = {}
    for name, index in wanted:
        if (name, index) not in drawn:
            missing.setdefault(name, []).append(index)
    return {
        "answers": len(wanted),
        "drawn": len(wanted) - sum(map(len, missing.values())),
        "missing": missing,
        "shards": [_line(out, shard, len(prompts), settings["n"]) for shard in shards],
    }


def _line(out: Path, shard: Shard, prompts: int, n: int) -> dict[str, Any]:
    answers = n * len([number for number in range(prompts) if shard.has(number)])
    drawn = sum(1 for _ in _drawn(shard.file(out)))
    name = f"{shard.number}/{shard.count}"
    at_work = is_held(out, shard.number)
    return {"shard": name, "answers": answers, "drawn": drawn, "at_work": at_work}


def _drawn(file: Path) -> Iterator[Key]:
    if file.exists():
        rows = read_jsonl(file) if file.stat().st_size else []
        for row in rows:
            yield row["problem_id"], int(row["sample_id"].rpartition("/")[2])
    else:
        yield from read_part(file.with_name(file.name + ".part"), mend=False)


def status_lines(out: Path, found: dict[str, Any]) -> list[str]:
    """`status` in words."""
    lines = [f"{found['drawn']} of {found['answers']} answers in {out}"]
    for each in found["shards"]:
        done = each["drawn"] == each["answers"]
        state = "done" if done else "at work" if each["at_work"] else "not at work"
        count = f"{each['drawn']} of {each['answers']} answers"
        lines.append(f"shard {each['shard']}: {count}, {state}")
    missing = found["missing"]
    for name, indices in [*missing.items()][:NAMED]:
        lines.append(f"missing: {name}, {', '.join(map(str, indices))}")
    if len(missing) > NAMED:
        lines.append(f"missing: and of {len(missing) - NAMED} problems more (--json names all)")
    return lines

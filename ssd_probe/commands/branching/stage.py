"""`ssd-probe branch`: which tokens of passing programs are forks, by what becomes of others.

Passing programs -> their probe -> positions in strata of entropy -> tokens to force -> runs ->
verdicts -> the table by position and token. Draws and verdicts are kept in the folder as they come;
an interrupted run goes on from there, and `positions` and `per_token` may grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.branching.choosing import choose_positions, choose_tokens
from ssd_probe.analysis.branching.outcomes import branches, outcomes
from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.branching.draws import draw_into
from ssd_probe.commands.branching.programs import Program
from ssd_probe.commands.branching.runs import Limits, judged, passing, requests_of
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution.evaluate import isolation
from ssd_probe.files.claims import claim, is_foreign
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import add, recording
from ssd_probe.files.writing import atomic_path
from ssd_probe.models.checkpoints import device_name, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.tokens import decode
from ssd_probe.probing.probe import probe
from ssd_probe.problems.rows import problem_id_of, stop_strings
from ssd_probe.problems.tasks import Task, load_tasks, tasks_identity
from ssd_probe.problems.texts import Text

BRANCHES, POSITIONS, RECORD = "branches.parquet", "positions.parquet", "run.json"
DRAWS, VERDICTS, PROBE = "draws.jsonl", "verdicts.jsonl", "probe"
DECODING = Decoding(0.7, 20, 0.8)  # how runs go on
TOP_K = 32  # ranks kept of each position


@dataclass(frozen=True)
class Branched:
    """The two tables: by position and token, and by position (its probe's row and its outcome)."""

    branches: pd.DataFrame
    positions: pd.DataFrame


def branch_stage(
    model: str | Checkpoint,
    problems: str,
    samples: Path,
    out: Path,
    config: BranchConfig | None = None,
    decoding: Decoding = DECODING,
    limits: Limits | None = None,
    *,
    device: str | None = None,
) -> Branched:
    """Branch the passing samples of a file in folder `out`, or go on with it.

    Writes `branches.parquet` (see `analysis.branching.outcomes.branches`) and `positions.parquet`:
    the probe's row of each position, `stratum`, `weight`, and its outcome. `UserError` for samples
    without ids, none that passes, and changed settings; `Failed` where programs could not be run.
    """
    config, limits = config or BranchConfig(), limits or Limits()
    if is_foreign(out, out / RECORD):
        raise UserError(f"{out}: not empty and no run of `branch`; choose another --out")
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model, device)
    rows = read_samples(samples)
    tasks = load_tasks(problems, {row["problem_id"] for row in rows})
    settings = {
        "model": checkpoint.identity,
        "problems": tasks_identity(tasks),
        "samples": digest([_drawn(row) for row in rows]),
        "decoding": decoding.to_dict(),
        "isolation": isolation(limits.unsandboxed),
        "seconds": limits.seconds,
        "megabytes": limits.megabytes,
        **config.recorded(),
    }
    about = {
        **named(checkpoint.name),
        "problems_source": problems,
        "source": str(samples),
        "device": device_name(checkpoint.device),
    }
    made = tuple(out / name for name in (VERDICTS, DRAWS, BRANCHES, POSITIONS))
    with claim(out), recording(out / RECORD, settings, about, made):
        found = _branch(checkpoint, rows, tasks, out, config, decoding, limits)
        counts = found.positions["outcome"].value_counts()
        add(out / RECORD, **config.grown(), outcomes={k: int(v) for k, v in counts.items()})
    return found


def read_samples(path: Path) -> list[dict]:
    """The rows of a samples file, each with ids, text and names. `UserError` for others."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        row["problem_id"] = problem_id_of(row, "", f"{path}: sample {number}")
        row.setdefault("sample_id", f"{row['problem_id']}/{number}")
        for key in ("prompt_ids", "completion_ids"):
            if not isinstance(row.get(key), list):
                raise UserError(
                    f"{path}: sample {number}: no `{key}`; make samples with `ssd-probe sample`"
                )
        if not isinstance(row.get("completion"), str):
            raise UserError(f"{path}: sample {number}: no `completion` text")
        stop_strings(row, f"{path}: sample {number}")  # refused here, where the place is known
    return rows


def _drawn(row: dict) -> list:
    """What of a sample its branches depend on."""
    return [row["sample_id"], row["prompt_ids"], row["completion_ids"], *stop_strings(row)]


def _branch(
    checkpoint: Checkpoint,
    rows: Sequence[dict],
    tasks: dict[str, Task],
    out: Path,
    config: BranchConfig,
    decoding: Decoding,
    limits: Limits,
) -> Branched:
    tokenizer, verdicts = checkpoint.tokenizer, out / VERDICTS
    try:
        programs = passing(rows, tasks, tokenizer, config.per_problem, limits, verdicts)
    except UserError:  # nothing to go on with: other samples may come into this folder
        verdicts.unlink(missing_ok=True)
        raise
    candidates = _probed(checkpoint, programs, out / PROBE)
    positions = choose_positions(candidates, config.positions, seed=config.seed)
    tokens = choose_tokens(positions, leading=config.leading, tail=config.tail, seed=config.seed)
    asked = requests_of(checkpoint, programs, tokens, config.per_token)
    how: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size}
    drawn = draw_into(out / DRAWS, checkpoint, asked, decoding, **how)
    each = config.per_token
    runs = judged(tokenizer, programs, tokens, drawn, each, tasks, limits, verdicts)
    tokens["token"] = [decode(tokenizer, [token]) for token in tokens["token_id"]]
    table = branches(tokens, runs)
    found = outcomes(table).drop(columns="problem_id")
    positions = positions.merge(found, on=["sample_id", "position"], validate="one_to_one")
    for name, frame in ((BRANCHES, table), (POSITIONS, positions)):
        with atomic_path(out / name) as temporary:
            frame.to_parquet(temporary, compression="zstd", index=False)
    return Branched(table, positions)


def _probed(checkpoint: Checkpoint, programs: Sequence[Program], folder: Path) -> pd.DataFrame:
    """The programs' probe, of the positions whose tokens their tests run."""
    texts = [
        Text(
            *(row["sample_id"], row["problem_id"], row.get("messages"), row.get("prompt")),
            *(row["completion"], row["prompt_ids"], row["completion_ids"]),
        )
        for row in (program.row for program in programs)
    ]
    frame = probe(checkpoint.name, texts, folder, top_k=TOP_K, device=checkpoint.device).frame
    running = {
        (program.row["sample_id"], len(program.row["prompt_ids"]) + place)
        for program in programs
        for place in program.running
    }
    places = zip(frame["sample_id"], frame["position"], strict=True)
    return frame[[place in running for place in places]]

"""Runs of a branching: which programs, what the model is given, and what its programs did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.branching.outcomes import TOKEN
from ssd_probe.analysis.passk import INFRA_ERROR, PASS
from ssd_probe.commands.branching.draws import Asked, Key
from ssd_probe.commands.branching.programs import Program, identity_of, read_program
from ssd_probe.core.requests import Request
from ssd_probe.errors import Failed, UserError
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.files.reading import Row
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import before_stop, completion_text, stop_ids, token_ids
from ssd_probe.problems.rows import stop_strings
from ssd_probe.problems.tasks import Task

SLACK, SPARE = 1.5, 32  # room of a run: so many times the original's rest, and so many more tokens


@dataclass(frozen=True)
class Limits:
    """How programs are run: what `evaluate` takes."""

    seconds: float = 3.0
    megabytes: int = 1024
    workers: int = 2
    unsandboxed: bool = False

    def judge(self, samples: Sequence[dict], tasks: dict[str, Task], part: Path) -> pd.Series:
        """Whether each sample passes. Raises Failed when some could not be run."""
        found = evaluate(
            samples,
            tasks,
            workers=self.workers,
            seconds=self.seconds,
            megabytes=self.megabytes,
            unsandboxed=self.unsandboxed,
            part=part,
        )
        if len(failed := found[found["verdict"] == INFRA_ERROR]):
            raise Failed(
                f"{len(failed)} programs could not be run ({failed['detail'].iloc[0]}); "
                "run the same command again to go on"
            )
        return found["verdict"] == PASS


def passing(
    rows: Sequence[dict],
    tasks: dict[str, Task],
    tokenizer: Any,
    per_problem: int,
    limits: Limits,
    part: Path,
) -> list[Program]:
    """The first `per_problem` different programs of each problem that pass. `UserError` if none."""
    passed = limits.judge(rows, tasks, part)
    programs: dict[tuple[str, str], Program] = {}
    counts: dict[str, int] = {}
    for row in (row for row, good in zip(rows, passed, strict=True) if good):
        name = row["problem_id"]
        if counts.get(name, 0) == per_problem:
            continue
        program = read_program(row, tasks[name], tokenizer)
        if program and (name, program.identity) not in programs:
            programs[name, program.identity] = program
            counts[name] = counts.get(name, 0) + 1
    if not programs:
        raise UserError(
            f"none of the {len(rows)} samples passes, so there is no program to branch; sample "
            "more, or easier problems"
        )
    return list(programs.values())


def requests_of(
    checkpoint: Checkpoint, programs: Sequence[Program], tokens: pd.DataFrame, per_token: int
) -> list[Asked]:
    """The runs of each forced token, those of a program together.

    What a run is given is the prompt, the program's tokens before the position, and the forced one.
    """
    model = checkpoint.model
    context, vocabulary = context_length(model), input_rows(model)
    tokenizer = checkpoint.tokenizer
    stops = stop_ids(model.generation_config, tokenizer)
    by_sample = {program.row["sample_id"]: program for program in programs}
    asked: list[Asked] = []
    for row in tokens.to_dict("records"):
        program, token = by_sample[row["sample_id"]], row["token_id"]
        prompt = token_ids(program.row, "prompt_ids", vocabulary)
        place = row["position"] - len(prompt)
        before = program.row["completion_ids"][:place]
        room = int(SLACK * (program.end - place)) + SPARE
        if context is not None:
            room = min(room, context - row["position"] - 1)
        begun, strings = [*before, token], stop_strings(program.row)
        stopped = before_stop(tokenizer, prompt, begun, strings) is not None
        if stopped or token in stops or token == program.closing or room < 1:
            continue  # it ends there
        ids = [*prompt, *begun]
        asked += [
            (Request(name_of(row), i, ids, room, strings, len(begun)), program.closing)
            for i in range(runs_of(row, per_token))
        ]
    return asked


def runs_of(row: Mapping, per_token: int) -> int:
    """How many runs a forced token gets: the original, with which all compare, twice as many."""
    return 2 * per_token if row["original"] else per_token


def name_of(row: Mapping) -> str:
    """A forced token's name, under which its runs draw their random numbers."""
    return f"{row['sample_id']}@{row['position']}:{row['token_id']}"


def judged(
    tokenizer: Any,
    programs: Sequence[Program],
    tokens: pd.DataFrame,
    drawn: Mapping[Key, list[int]],
    per_token: int,
    tasks: dict[str, Task],
    limits: Limits,
    part: Path,
) -> pd.DataFrame:
    """One row a run: sample_id, problem_id, position, token_id, index, passed, same.

    A token that ends the answer leaves nothing to draw: all its runs are the same.
    """
    by_sample = {program.row["sample_id"]: program for program in programs}
    runs, answers = [], []
    for row in tokens.to_dict("records"):
        program = by_sample[row["sample_id"]]
        prompt = program.row["prompt_ids"]
        before = program.row["completion_ids"][: row["position"] - len(prompt)]
        for index in range(runs_of(row, per_token)):
            ids = [*before, row["token_id"], *drawn.get((name_of(row), index), [])]
            answers.append(_answer(tokenizer, program.row, ids))
            runs.append([row[name] for name in TOKEN] + [index])
    frame = pd.DataFrame(runs, columns=[*TOKEN, "index"])
    frame["passed"] = limits.judge(answers, tasks, part).to_numpy()
    frame["same"] = [
        passed and by_sample[name].identity == identity_of(tasks[answer["problem_id"]], answer)
        for name, answer, passed in zip(frame["sample_id"], answers, frame["passed"], strict=True)
    ]
    return frame


def _answer(tokenizer: Any, row: Row, ids: list[int]) -> Row:
    """A sample as `row`, with these ids for its completion, which end before a stop string."""
    ids = ids[: before_stop(tokenizer, row["prompt_ids"], ids, stop_strings(row))]
    text = completion_text(tokenizer, row["prompt_ids"], ids)
    return row | {"completion": text, "completion_ids": ids}

"""`ssd-probe sweep`: pass@k of every checkpoint at every decoding of a grid.

A cell is one checkpoint at one decoding. Its samples, then its evaluation, are files that appear
when they are complete; an interrupted sweep skips the cells that have theirs. Work that cells share
is done once: a model is loaded for all its cells, and a program that a problem has had before, in
whichever cell, has its verdict (`verdicts.jsonl`).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ssd_probe.analysis.passk import INFRA_ERROR, pass_table
from ssd_probe.commands.grid import Grid, Trained
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.sampling.certificates import certificate_for
from ssd_probe.core.lanes import Run, side_by_side
from ssd_probe.core.requests import Engine
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import engine_of, serve_all
from ssd_probe.errors import Failed, UserError
from ssd_probe.execution.evaluate import evaluate, isolation
from ssd_probe.execution.sandbox import obstacle
from ssd_probe.files.claims import claim, is_foreign
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import begin
from ssd_probe.files.writing import atomic_path, write_jsonl
from ssd_probe.models.checkpoints import device_name
from ssd_probe.models.identity import Checkpoint, Identity
from ssd_probe.policies.parsing import policy_of
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import Task, lacks_code, load_tasks, tasks_identity
from ssd_probe.tiny.language import speaks

TABLE = "sweep.csv"
BOX = "bubblewrap"
LANGUAGE = "none; only programs of the domain's language ran"


@dataclass(frozen=True)
class Cell:
    """One checkpoint at one decoding, and where its files are."""

    trained: Trained
    decoding: Decoding
    out: Path

    @property
    def name(self) -> str:
        d = self.decoding
        return f"T{d.temperature}-k{d.top_k}-p{d.top_p}.jsonl"

    @property
    def samples(self) -> Path:
        return self.out / "samples" / self.trained.name / self.name

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluations" / self.trained.name / self.name


def cells_of(grid: Grid, out: Path) -> list[Cell]:
    """The grid's cells, with their files in `out`."""
    return [Cell(trained, decoding, out) for trained, decoding in grid.cells()]


def sweep_stage(
    grid: Grid,
    out: Path,
    *,
    processes: int = 1,
    device: str | None = None,
    unsandboxed: bool = False,
    harmless: bool = False,
    run: Run | None = None,
    certificates: Sequence[str] = (),
) -> pd.DataFrame:
    """Run, or go on with, a grid in folder `out`; the table, also in `out`/sweep.csv.

    One row a (checkpoint, decoding, group, k): `model, policy` (NaN for a plain decoding),
    `T_train, top_k_train, top_p_train` (NaN for a base model), `T_eval, top_k_eval, top_p_eval,
    group, k, estimate, low, high, problems, without_code` (share of samples). The grid may grow
    between runs; `UserError` for other settings of what is there. `processes` sample side by side,
    each with a model of its own, on one thread, or those of `run` do. `harmless`: where nothing
    isolates, of the bundled domain's programs only those run that are in its own language, and the
    others count as errors. `certificates`: of `doctor --engine`, into the records of those cells
    whose model and decoding they are of.
    """
    if is_foreign(out, out / "run.json"):
        raise UserError(f"{out}: not empty and not a sweep; choose another --out")
    isolated = isolation_of(grid.problems, unsandboxed, harmless)
    identities = [Checkpoint(trained.model).identity for trained in grid.checkpoints]
    style = None if grid.style == "auto" else grid.style  # else each checkpoint's own
    prompts = read_prompts(grid.problems, grid.limit, style)
    tasks = load_tasks(grid.problems, {prompt.problem_id for prompt in prompts})
    inputs = {"prompts": digest(prompts), "problems": tasks_identity(tasks), "isolation": isolated}
    cells = cells_of(grid, out)
    with claim(out), ExitStack() as held:
        run = run or held.enter_context(side_by_side(processes))
        held.callback(_close)
        _begin(grid, inputs, identities, device, out)
        line = processes if processes > 1 else 0  # of the progress bar, below the processes' own
        left = [cell for cell in cells if not cell.evaluation.exists()]
        with tqdm(
            total=2 * len(left), desc="sweep", unit="step", position=line, disable=None
        ) as bar:
            run(_sample, [(cell, grid, device, certificates) for cell in left], bar.update)
            for cell in left:
                _evaluate(cell, grid, tasks, isolated)
                bar.update()
        table = pd.concat([_rows(cell, grid.k) for cell in cells], ignore_index=True)
        with atomic_path(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    return table


def _begin(
    grid: Grid, inputs: dict, identities: list[Identity], device: str | None, out: Path
) -> None:
    """Record the settings all cells share, and what each checkpoint is; refuse changed ones."""
    asked: dict[str, Any] = {"style": grid.style, "limit": grid.limit, "timeout": grid.timeout}
    if grid.engine != Grid.engine:  # sweeps of before there were engines are of the first
        asked |= {"engine": grid.engine, "engine_args": list(grid.engine_args)}
    shared = grid.sampling().recorded() | asked | inputs
    about = {"source": grid.problems, "device": device_name(device)}
    begin(out / "run.json", shared, about, newer={"style"})
    for trained, identity in zip(grid.checkpoints, identities, strict=True):
        decoding = trained.decoding.to_dict() if trained.decoding else None
        settings: dict[str, Any] = {"model": identity, "trained_on": decoding}
        if trained.policy is not None:
            settings["policy"] = trained.policy
        folder = out / "samples" / trained.name
        made = sorted(folder.glob("*.jsonl"))
        begin(folder / "run.json", settings, {"model": trained.model}, made)


_open: list[tuple[Checkpoint, Engine]] = []  # at most one: the model this process holds


def _sample(cell: Cell, grid: Grid, device: str | None, certificates: Sequence[str]) -> None:
    """Sample a cell; the model stays for the next cell of the same checkpoint."""
    if not _open or _open[0][0].name != cell.trained.model:
        _close()  # before the next is loaded: memory may hold one only
        checkpoint = Checkpoint(cell.trained.model, device)
        choice = serve_all(grid.engine, grid.engine_args)
        _open.append((checkpoint, engine_of(choice, checkpoint, grid.batch_size)))
    checkpoint, engine = _open[0]
    about: dict[str, Any] = {"limit": grid.limit, "style": grid.style, "engine": engine}
    policy = policy_of(cell.trained.policy, cell.decoding)
    if not cell.samples.exists():  # else no engine is asked for its version
        about["certificate"] = certificate_for(certificates, checkpoint, policy)
    sample_stage(checkpoint, grid.problems, policy, cell.samples, grid.sampling(), **about)


def _close() -> None:
    while _open:
        _open.pop()[1].close()


def isolation_of(problems: str, unsandboxed: bool, harmless: bool = False) -> str:
    """What keeps these problems' programs from the machine; `UserError` if nothing does."""
    if harmless and problems.startswith("tiny:") and obstacle() is not None:
        return LANGUAGE
    return isolation(unsandboxed)


def _evaluate(cell: Cell, grid: Grid, tasks: dict[str, Task], isolated: str) -> None:
    """Run a cell's programs that no cell before it had, and write a row a sample.

    Raises Failed, and writes nothing, when some could not be run.
    """
    samples = read_jsonl(cell.samples)
    spoken = samples
    if isolated == LANGUAGE:
        spoken = [row if speaks(row["completion"]) else row | {"completion": ""} for row in samples]
    frame = evaluate(
        spoken,
        tasks,
        workers=grid.workers,
        seconds=grid.timeout,
        unsandboxed=isolated != BOX,
        part=cell.out / "verdicts.jsonl",
    )
    failed = frame[frame["verdict"] == INFRA_ERROR]
    if len(failed):
        first = failed.iloc[0]
        raise Failed(
            f"{len(failed)} programs could not be run ({first['detail']}), first of problem "
            f"{first['problem_id']}; run the same command again to go on"
        )
    frame["no_code"] = lacks_code(samples, tasks)
    write_jsonl(cell.evaluation, frame.to_dict("records"))


def verdicts(cell: Cell) -> pd.DataFrame:
    """One row a sample of an evaluated cell, with `model` and `temperature`."""
    frame = pd.DataFrame(read_jsonl(cell.evaluation))
    return frame.assign(model=cell.trained.name, temperature=cell.decoding.temperature)


def _rows(cell: Cell, ks: tuple[int, ...]) -> pd.DataFrame:
    """The table's rows of one cell."""
    trained, decoding = cell.trained.decoding, cell.decoding
    table = pass_table(pd.DataFrame(read_jsonl(cell.evaluation)), ks)
    settings = {
        "model": cell.trained.name,
        "policy": cell.trained.policy or float("nan"),
        "T_train": trained.temperature if trained else float("nan"),
        "top_k_train": trained.top_k if trained else float("nan"),
        "top_p_train": trained.top_p if trained else float("nan"),
        "T_eval": decoding.temperature,
        "top_k_eval": decoding.top_k,
        "top_p_eval": decoding.top_p,
    }
    return table.assign(**settings)[[*settings, *table.columns]]

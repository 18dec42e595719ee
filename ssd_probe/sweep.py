"""`ssd-probe sweep`: pass@k of every checkpoint at every decoding of a grid.

A cell is one checkpoint at one decoding. Its samples, then its evaluation, are files that appear
when they are complete; an interrupted sweep skips the cells that have theirs. Work that cells share
is done once: a model is loaded for all its cells, and a program that a problem has had before, in
whichever cell, has its verdict.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ssd_probe.analysis.passk import pass_table
from ssd_probe.data import atomic_path, read_jsonl, read_prompts, write_jsonl
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.evaluate import evaluate
from ssd_probe.grid import Grid, Trained
from ssd_probe.lanes import Run, lanes
from ssd_probe.problems import Task, load_tasks, program
from ssd_probe.run import begin, claim
from ssd_probe.stages import Checkpoint, sample_stage

TABLE = "sweep.csv"
Verdicts = dict[tuple[str, str], tuple[str, str]]  # (problem_id, program) -> (verdict, detail)


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


def run_sweep(
    grid: Grid, out: Path, *, processes: int = 1, device: str | None = None
) -> pd.DataFrame:
    """Run, or go on with, a grid in folder `out`; the table, also in `out`/sweep.csv.

    One row a (checkpoint, decoding, group, k): `model, T_train, top_k_train, top_p_train` (NaN for
    a base model), `T_eval, top_k_eval, top_p_eval, group, k, estimate, low, high, problems,
    without_code` (share of samples). The grid may grow between runs; `UserError` for other settings
    of what is there. `processes` sample side by side, each with a model of its own, on one thread.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").exists():
        raise UserError(f"{out}: not empty and not a sweep; choose another --out")
    identities = [Checkpoint(trained.model).identity for trained in grid.checkpoints]
    wanted = {prompt.problem_id for prompt in read_prompts(grid.problems, grid.limit)}
    tasks = load_tasks(grid.problems, wanted)
    cells = [Cell(trained, decoding, out) for trained, decoding in grid.cells()]
    with claim(out), _side_by_side(processes) as run:
        _begin(grid, identities, out)
        _run_cells(grid, cells, tasks, run, device, processes if processes > 1 else 0)
        table = pd.concat([_rows(cell, grid.k) for cell in cells], ignore_index=True)
        with atomic_path(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    return table


def _begin(grid: Grid, identities: list[str], out: Path) -> None:
    """Record the settings all cells share, and each checkpoint's; refuse changed ones."""
    file = Path(grid.problems)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else grid.problems
    shared = grid.sampling() | {"limit": grid.limit, "timeout": grid.timeout, "problems": content}
    begin(out / "run.json", shared, {"source": grid.problems})
    for trained, weights in zip(grid.checkpoints, identities, strict=True):
        decoding = trained.decoding.to_dict() if trained.decoding else None
        settings = {"weights": weights, "trained_on": decoding}
        begin(out / "samples" / trained.name / "run.json", settings, {"model": trained.model})


def _run_cells(
    grid: Grid,
    cells: list[Cell],
    tasks: dict[str, Task],
    run: Run,
    device: str | None,
    line: int,
) -> None:
    """Sample, then evaluate, what is not there yet, one checkpoint after another."""
    left = [cell for cell in cells if not cell.evaluation.exists()]
    known = _known_verdicts(cells)
    steps = 2 * len(left)
    with tqdm(total=steps, desc="sweep", unit="step", position=line, disable=None) as bar:
        for trained in grid.checkpoints:
            mine = [cell for cell in left if cell.trained == trained]
            run(_sample, [(cell, grid, device) for cell in mine], bar.update)
            for cell in mine:
                _evaluate(cell, grid, tasks, known)
                bar.update()


_open: list[Checkpoint] = []  # at most one: the model this process holds


def _sample(cell: Cell, grid: Grid, device: str | None) -> None:
    """Sample a cell; the model stays for the next cell of the same checkpoint."""
    if not _open or _open[0].name != cell.trained.model:
        _open.clear()  # before the next is loaded: memory may hold one only
        _open.append(Checkpoint(cell.trained.model, device))
    sample_stage(
        _open[0], grid.problems, cell.decoding, cell.samples, limit=grid.limit, **grid.sampling()
    )


@contextmanager
def _side_by_side(processes: int) -> Iterator[Run]:
    """`lanes` for several processes; for one, this one, with all its threads."""
    if processes > 1:
        with lanes(processes) as run:
            yield run
        return
    try:
        yield _one_by_one
    finally:
        _open.clear()


def _one_by_one(task: Callable, arguments: Iterable[tuple], done: Callable) -> None:
    for each in arguments:
        task(*each)
        done()


def _known_verdicts(cells: list[Cell]) -> Verdicts:
    """The verdicts of the programs in the cells that have been evaluated."""
    return {
        (row["problem_id"], row["program"]): (row["verdict"], row["detail"])
        for cell in cells
        if cell.evaluation.exists()
        for row in read_jsonl(cell.evaluation)
    }


def _evaluate(cell: Cell, grid: Grid, tasks: dict[str, Task], known: Verdicts) -> None:
    """Run a cell's new programs, add their verdicts to `known`, and write a row a sample.

    Raises RuntimeError, and writes nothing, when some could not be run.
    """
    samples = read_jsonl(cell.samples)
    programs = [program(tasks[row["problem_id"]], row["completion"]) for row in samples]
    keys = [
        (row["problem_id"], hashlib.sha256((code or "").encode()).hexdigest())
        for row, code in zip(samples, programs, strict=True)
    ]
    new = {key: row for key, row in zip(keys, samples, strict=True) if key not in known}
    if new:
        found = evaluate(list(new.values()), tasks, workers=grid.workers, seconds=grid.timeout)
        known |= dict(zip(new, zip(found["verdict"], found["detail"], strict=True), strict=True))
    failed = [key for key in new if known[key][0] == "infra_error"]
    if failed:
        raise RuntimeError(
            f"{len(failed)} programs could not be run ({known[failed[0]][1]}), first of problem "
            f"{failed[0][0]}; run the same command again to go on"
        )
    counts: dict[str, int] = {}
    rows = []
    for key, code in zip(keys, programs, strict=True):
        counts[key[0]] = index = counts.get(key[0], -1) + 1
        verdict, detail = known[key]
        row: dict[str, Any] = {"problem_id": key[0], "sample": index, "program": key[1]}
        row |= {"difficulty": tasks[key[0]].difficulty, "no_code": code is None}
        rows.append(row | {"verdict": verdict, "detail": detail})
    write_jsonl(cell.evaluation, rows)


def _rows(cell: Cell, ks: tuple[int, ...]) -> pd.DataFrame:
    """The table's rows of one cell."""
    trained, decoding = cell.trained.decoding, cell.decoding
    table = pass_table(pd.DataFrame(read_jsonl(cell.evaluation)), ks)
    settings = {
        "model": cell.trained.name,
        "T_train": trained.temperature if trained else float("nan"),
        "top_k_train": trained.top_k if trained else float("nan"),
        "top_p_train": trained.top_p if trained else float("nan"),
        "T_eval": decoding.temperature,
        "top_k_eval": decoding.top_k,
        "top_p_eval": decoding.top_p,
    }
    return table.assign(**settings)[[*settings, *table.columns]]

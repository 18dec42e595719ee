"""`ssd-probe evaluate`: samples in a file -> verdicts and pass@k, resumable.

Apart from the other steps, since it loads no model: the process that reads what hostile programs
write stays small.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssd_probe.execution.evaluate import FLIPPED, evaluate, isolation
from ssd_probe.executors import crew
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import recording
from ssd_probe.files.writing import write_json
from ssd_probe.problems.rows import problem_id_of, stop_strings
from ssd_probe.problems.tasks import Task, lacks_code, load_tasks, tasks_identity

if TYPE_CHECKING:
    import pandas as pd


class Evaluated(NamedTuple):
    """What --json prints; and of each sample whether it ended by itself, None if nothing says."""

    result: dict
    ended: list[bool | None]


def evaluate_stage(
    problems: str,
    samples: Path,
    ks: list[int] | None,
    *,
    out: Path | None = None,
    workers: int = 2,
    scheduler: str | None = None,
    seconds: float = 3.0,
    megabytes: int = 1024,
    unsandboxed: bool = False,
) -> Evaluated:
    """Run the samples; result: `results`, `pass_at_k`, `without_code`, `isolation`, and `flips`.

    `results`: `task_id, verdict, detail` a sample. `without_code`: share of the answers in which
    the benchmark finds no code. `flips`: how many were over time at first and not when run alone.
    Without `ks`, pass@1 and, where every problem has five samples, pass@5.
    Programs that could not be run (`infra_error`) are in `results` and in no pass@k. With `out` the
    result is written there; verdicts are kept in `out`.verdicts.jsonl as they come, so that only
    the rest is run another time, and `out`.run.json refuses other settings for the same file.
    `scheduler`: of a Dask cluster whose workers run the programs, isolated there.
    """
    rows = read_jsonl(samples)
    ids = [problem_id_of(row, "", f"{samples}: sample {i}") for i, row in enumerate(rows, 1)]
    tasks = load_tasks(problems, set(ids))
    isolated = isolation(unsandboxed)
    limits = {"seconds": seconds, "megabytes": megabytes}
    hired = partial(crew, len(rows), scheduler) if scheduler else None
    options = {"workers": workers, "hired": hired, "unsandboxed": unsandboxed, **limits}
    with claim(out, is_file=True) if out else nullcontext():
        if out is None:
            return _evaluate(tasks, rows, ks, isolated, options, None)
        settings = {
            "problems": tasks_identity(tasks),
            "samples": digest(
                [
                    (problem_id_of(row, "", "a sample"), row.get("completion"), *stop_strings(row))
                    for row in rows
                ]
            ),
            "isolation": isolated,
            **limits,
        }
        about = {"problems": problems, "source": str(samples)}
        part = out.with_name(out.name + ".verdicts.jsonl")
        with recording(out.with_name(out.name + ".run.json"), settings, about, (out, part)):
            found = _evaluate(tasks, rows, ks, isolated, options, part)
        write_json(out, found.result)
        return found


def _evaluate(
    tasks: dict[str, Task],
    rows: Sequence[dict],
    ks: list[int] | None,
    isolated: str,
    options: dict[str, Any],
    part: Path | None,
) -> Evaluated:
    results = evaluate(rows, tasks, part=part, **options)
    no_code = lacks_code(rows, tasks)
    fewest = results.groupby("problem_id").size().min()
    ks = ks or [k for k in (1, 5) if k <= fewest]
    clean = results[results["verdict"] != "infra_error"]
    named = results.rename(columns={"problem_id": "task_id"})
    result = {
        "results": named[["task_id", "verdict", "detail"]].to_dict("records"),
        "pass_at_k": _pass_at_k(clean, ks) if len(clean) else [],
        "without_code": sum(no_code) / len(no_code),
        "isolation": isolated,
        "flips": int(results["detail"].str.endswith(FLIPPED).sum()),
    }
    return Evaluated(result, [row.get("finished") for row in rows])


def _pass_at_k(results: "pd.DataFrame", ks: list[int]) -> list[dict]:
    """`pass_table` as rows, from a process of its own: scipy's 60 MB are not for this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_pass_rows, results, ks).result()


def _pass_rows(results: "pd.DataFrame", ks: list[int]) -> list[dict]:
    from ssd_probe.analysis.passk import pass_table

    return pass_table(results, ks=ks).to_dict("records")

"""Run sampled programs against hidden tests and say what became of each.

Programs run in boxes (`sandbox.py`), whose inside (`candidate.py`) sees code and inputs; expected
values stay out here (`judge.py`) or in the process of a benchmark's own check (`oracle.py`).
"""

import json
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.judge import VERDICTS, Judge, Verdict
from ssd_probe.files.digests import digest
from ssd_probe.problems.rows import problem_id_of
from ssd_probe.problems.tasks import Task, answered

if TYPE_CHECKING:
    import pandas as pd

    from ssd_probe.executors import Crew

__all__ = ["VERDICTS", "evaluate", "isolation"]

COLUMNS = ["problem_id", "difficulty", "sample", "verdict", "detail"]
TOGETHER = 16  # programs of a problem that a crew is given at once
FLIPPED = "; over time at first, not when run alone"


@dataclass
class _Job:
    """One distinct program of one problem, and the samples that wrote it."""

    task: Task
    code: str | None
    samples: list[int] = field(default_factory=list)
    verdict: str = ""  # empty: not run yet
    detail: str = ""

    @property
    def key(self) -> str:
        """Under which its verdict is kept: the problem with its tests, and the program."""
        return digest([self.task.identity, self.code])


def isolation(unsandboxed: bool) -> str:
    """What keeps programs from the machine, as results record it; `UserError` if nothing does."""
    if unsandboxed:
        return "none, accepted"
    if reason := sandbox.obstacle():
        raise UserError(
            f"model-written programs cannot be isolated: {reason}; "
            "or --i-accept-unsandboxed-execution, on a machine you can lose"
        )
    return "bubblewrap"


def evaluate(
    samples: Sequence[dict],
    tasks: dict[str, Task],
    *,
    workers: int = 2,
    hired: "Callable[[], AbstractContextManager[Crew]] | None" = None,
    seconds: float = 3.0,
    megabytes: int = 1024,
    progress: bool = True,
    unsandboxed: bool = False,
    part: Path | None = None,
) -> "pd.DataFrame":
    """One row a sample: `problem_id, difficulty, sample, verdict, detail`.

    `samples` have `problem_id` (or `task_id`) and `completion`. A program that a problem's samples
    share runs once. Verdicts: `pass`; `wrong` (another result); `error` (an exception, or no code);
    `timeout`; `crash` (a signal or an early exit); `memory`; `output_limit`; `protocol` (a forged
    reply); `infra_error` (ours, never counted as wrong). Timeouts are run again, alone; a verdict
    that changes says so in its detail. With `part`, verdicts are kept in that file as they come,
    and a later call runs only the rest. `workers` programs at a time here, or wherever the crew
    that is `hired` for them computes. `UserError` for bad samples and where nothing isolates.
    """
    isolation(unsandboxed)
    jobs = list(_distinct_jobs(samples, tasks).values())
    with _Ledger(part) as ledger:
        ledger.recall(jobs)
        left = [job for job in jobs if not job.verdict]
        judging = _Judging(seconds, megabytes, unsandboxed)
        with hired() if hired and left else nullcontext() as crew:
            _run_all(left, judging, workers, crew, ledger, progress)
    return _frame(jobs, len(samples))


def _distinct_jobs(samples: Sequence[dict], tasks: dict[str, Task]) -> dict[tuple, _Job]:
    jobs: dict[tuple, _Job] = {}
    for number, sample in enumerate(samples):
        problem_id = problem_id_of(sample, "", f"sample {number + 1}")
        if problem_id not in tasks:
            raise UserError(f"sample {number + 1}: {problem_id!r} is not among the problems")
        if not isinstance(sample.get("completion"), str):
            raise UserError(f"sample {number + 1}: no `completion` text")
        task = tasks[problem_id]
        code = answered(task, sample)
        jobs.setdefault((problem_id, code), _Job(task, code)).samples.append(number)
    return jobs


def _frame(jobs: Iterable[_Job], count: int) -> "pd.DataFrame":
    """One row a sample, in the order of the samples."""
    import pandas as pd  # 80 MB that the running of programs does not need

    by_sample = {number: job for job in jobs for number in job.samples}
    seen: dict[str, int] = {}
    rows = []
    for number in range(count):
        job = by_sample[number]
        problem_id = job.task.problem_id
        index = seen[problem_id] = seen.get(problem_id, -1) + 1
        rows.append((problem_id, job.task.difficulty, index, job.verdict, job.detail))
    return pd.DataFrame(rows, columns=COLUMNS)


def _run_all(
    jobs: list[_Job],
    judging: "_Judging",
    workers: int,
    crew: "Crew | None",
    ledger: "_Ledger",
    progress: bool,
) -> None:
    """Every job, here or by a crew; then those over time again, one by one, here."""
    late: list[_Job] = []
    found = _here(jobs, judging, workers) if crew is None else _there(jobs, judging, crew)
    with (
        tqdm(total=len(jobs), desc="running programs", disable=None if progress else True) as bar,
        closing(found) as verdicts,
    ):
        for job, verdict in verdicts:
            if verdict[0] == "timeout":
                late.append(job)
            else:
                ledger.enter(job, verdict)
                bar.update()
        with closing(judging.judge()) as judge:
            for job in sorted(late, key=lambda job: job.samples):
                again, detail = _judged(judge, job.task, job.code)
                detail += FLIPPED if again != "timeout" else ""
                ledger.enter(job, (again, detail))
                bar.update()


def _here(
    jobs: list[_Job], judging: "_Judging", workers: int
) -> Generator[tuple[_Job, Verdict], None, None]:
    """`workers` at a time, each as soon as it is known: threads, which wait on boxes."""
    waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[_Job, Verdict]] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def serve() -> None:
        with closing(judging.judge()) as judge, suppress(queue.Empty):
            while True:
                job = waiting.get_nowait()
                done.put((job, _judged(judge, job.task, job.code)))

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            yield done.get()
        for thread in threads:
            thread.join()
    finally:
        with suppress(queue.Empty):  # where nobody asks on
            while True:
                waiting.get_nowait()


def _there(
    jobs: list[_Job], judging: "_Judging", crew: "Crew"
) -> Generator[tuple[_Job, Verdict], None, None]:
    """Some programs of one problem at a time, so that its tests, often large, are sent seldom."""
    by_task: dict[str, list[_Job]] = {}
    for job in jobs:
        by_task.setdefault(job.task.problem_id, []).append(job)
    shares = [
        same[i : i + TOGETHER] for same in by_task.values() for i in range(0, len(same), TOGETHER)
    ]
    asked = ((judging, share[0].task, [job.code for job in share]) for share in shares)
    for share, verdicts in zip(shares, crew.map(_verdicts, asked), strict=True):
        yield from zip(share, verdicts, strict=True)


@dataclass(frozen=True)
class _Judging:
    """How programs are judged, wherever that is."""

    seconds: float
    megabytes: int
    unsandboxed: bool

    def judge(self) -> Judge:
        return Judge(self.seconds, self.megabytes, not self.unsandboxed)


def _verdicts(judging: _Judging, task: Task, codes: Sequence[str | None]) -> list[Verdict]:
    """Of a problem's programs, on a worker; `UserError` where it cannot isolate them."""
    try:
        isolation(judging.unsandboxed)
    except UserError as error:
        raise UserError(f"on {socket.gethostname()}: {error}") from None
    with closing(judging.judge()) as judge:
        return [_judged(judge, task, code) for code in codes]


def _judged(judge: Judge, task: Task, code: str | None) -> Verdict:
    if code is None:
        return "error", "no code in the answer"
    try:
        return judge.verdict(task, code)
    except Exception as error:  # ours: never the program's verdict
        judge.close()
        return "infra_error", f"{type(error).__name__}: {error}"[:200]


class _Ledger:
    """Verdicts in a file, line by line, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path | None):
        self._path = path
        self._known = {key: (verdict, detail) for key, verdict, detail in _read_lines(path)}

    def __enter__(self) -> "_Ledger":
        self._file = self._path.open("a", encoding="utf-8") if self._path else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def recall(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            job.verdict, job.detail = self._known.get(job.key, ("", ""))

    def enter(self, job: _Job, verdict: Verdict) -> None:
        job.verdict, job.detail = verdict
        if self._file and job.verdict != "infra_error":  # those are run again
            self._file.write(json.dumps([job.key, *verdict]) + "\n")
            self._file.flush()


def _read_lines(path: Path | None) -> list[list[str]]:
    """The lines of an interrupted run; a last one that was cut short is dropped."""
    if path is None or not path.exists():
        return []
    whole, newline, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        path.write_text(whole + newline, encoding="utf-8")
    return [json.loads(line) for line in whole.split("\n") if line]

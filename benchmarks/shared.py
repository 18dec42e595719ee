"""What two torch processes on the same cores cost each other, by how idle OpenMP threads wait.

    python benchmarks/shared.py                                    # the command's setting and none
    python benchmarks/shared.py --setting "" GOMP_SPINCOUNT=10000  # others; "" is torch's default

Each setting gets two processes of all cores that repeat three kinds of work: `sample` from the tiny
model (hundreds of small operations a token), `forward` (24 products of [64, 1024] states, as in a
small language model) and `position_stats` of 64 x 32,768 logits. Rounds are
interleaved: one process alone, then both at once. Medians in ms; `slowdown` is both over alone, 2
being a fair share. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from ssd_probe.cli.environment import WAITING

OURS = " ".join(f"{name}={value}" for name, value in WAITING.items())
WORK = ("sample", "forward", "position_stats")


def work() -> dict[str, Callable]:
    """By name, what a process repeats."""
    import torch
    from timing import normal_logits

    from ssd_probe.core.generation import generate
    from ssd_probe.kernels.stats import position_stats
    from ssd_probe.models.checkpoints import load_model

    model, logits = load_model("tiny"), normal_logits(64, 32_768, torch.float32, "cpu")
    layers = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(24)))
    hidden = torch.randn(64, 1024)  # a small language model's products, one after another

    @torch.inference_mode()
    def forward() -> None:
        layers(hidden)

    return {"sample": lambda: generate(model, [[1] * 8] * 16, 24, set()), "forward": forward,
            "position_stats": lambda: [position_stats(logits) for _ in range(5)]}  # fmt: skip


def serve() -> None:
    """In a child: a name on stdin is repeated for half a second; answers ms a call."""
    methods = work()
    for method in methods.values():
        method()
    print("ready", flush=True)
    for line in sys.stdin:
        start, calls = time.perf_counter(), 0
        while time.perf_counter() < start + 0.5:
            methods[line.strip()]()
            calls += 1
        print(1e3 * (time.perf_counter() - start) / calls, flush=True)


def start(setting: str) -> subprocess.Popen:
    decided = {name.partition("=")[0] for name in setting.split()} | {"OMP_NUM_THREADS", *WAITING}
    environment = {name: value for name, value in os.environ.items() if name not in decided}
    environment |= dict(pair.split("=") for pair in setting.split())
    command = [sys.executable, __file__, "--serve"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    process.stdout.readline()
    return process


def together(processes: list[subprocess.Popen], name: str) -> float:
    """ms a call, the mean of the processes, all at once."""
    for process in processes:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
    return statistics.mean(float(process.stdout.readline()) for process in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", nargs="*", default=["", OURS], help="NAME=VALUE ..., or ''")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    pairs = {setting: [start(setting), start(setting)] for setting in args.setting}
    times: dict[tuple, list[float]] = {}
    for _ in range(args.repeats):
        for name in WORK:
            for setting, pair in pairs.items():
                for count in (1, 2):
                    key = (name, setting, count)
                    times.setdefault(key, []).append(together(pair[:count], name))
    for process in (process for pair in pairs.values() for process in pair):
        process.communicate()
    results = []
    for name in WORK:
        for setting in pairs:
            alone, both = (statistics.median(times[name, setting, n]) for n in (1, 2))
            results.append({"work": name, "setting": setting, "alone_ms": alone, "both_ms": both,
                            "slowdown": both / alone})  # fmt: skip
            print(f"{name:<15} {setting or 'default':<28} alone {alone:8.1f} ms   "
                  f"both {both:8.1f} ms   {both / alone:5.1f}x")  # fmt: skip
    print(json.dumps({"benchmark": "shared", "cores": os.cpu_count(),
                      "time": time.strftime("%Y-%m-%d"), "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()

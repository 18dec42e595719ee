"""What the host does for one call of the Triton backend, no GPU needed: microseconds, medians.

    python benchmarks/host.py

The checks, the allocations (on the CPU here), and Triton's binding of the arguments; not the launch
itself, which only a device shows: `make gpu-check`.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter binds nothing

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from ssd_probe.kernels import backends
from ssd_probe.kernels.stats import position_stats

CALLS = 1000


class Driver:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def bind(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
    if not hasattr(kernel, "bound"):
        kernel.bound = kernel.create_binder()[-1]
    kernel.bound(*arguments, **options)


def microseconds(run: Callable) -> float:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e3


def main() -> None:
    torch.set_num_threads(1)
    driver._active = Driver()
    backends._triton_obstacle = lambda *_: ""
    logits = torch.zeros(1, 151_936, dtype=torch.bfloat16)

    def call() -> None:
        position_stats(logits, backend="triton")

    for what, run in (("with binding", bind), ("without", lambda *_, **__: None)):
        JITFunction.run = run
        print(f"position_stats of one row, {what}: {microseconds(call):.1f} us")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

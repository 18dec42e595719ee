"""What the benchmarks share: interleaved medians, the machine's read bandwidth, peak memory."""

import statistics
import time
from collections.abc import Callable

import torch


def medians(methods: dict[str, Callable], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Milliseconds by method; interleaved, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(repeats + 1):
        for name, method in methods.items():
            start = _now(device)
            method()
            if round_:  # the first round warms up
                times[name].append(1e3 * (_now(device) - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def read_bandwidth(device: str = "cpu", size: int = 2**28) -> float:
    """GB/s at which torch sums `size` int32 in all threads: memory read and nothing else."""
    x = torch.zeros(size, dtype=torch.int32, device=device)
    x += 1  # pages that were written, not one page of zeros
    ms = medians({"sum": lambda: x.sum(dtype=torch.int32)}, 5, device)["sum"]
    return x.nbytes / ms / 1e6


class PeakMemory:
    """Megabytes by which the process grew, at its peak, above what it held at the start."""

    def __enter__(self) -> "PeakMemory":
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets VmHWM
        self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.megabytes = (_status("VmHWM") - self.before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def normal_logits(rows: int, vocabulary: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    return (3 * torch.randn(rows, vocabulary, device=device)).to(dtype)

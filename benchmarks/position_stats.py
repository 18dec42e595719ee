"""Time `position_stats` on the CPU against what one writes by hand.

    python benchmarks/position_stats.py --rows 64 --vocab 151936 --dtype bfloat16

GB/s counts the logits once (N * V * bytes an element), the least that any method must read.
The last line is JSON.
"""

import argparse
import json
import statistics
import time

import torch

from ssd_probe.kernels import reference
from ssd_probe.kernels.stats import PositionStats, position_stats

TOP_K, TOP_P = 20, 0.8


def by_hand(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Entropy, the top 20 and the nucleus size, in float32."""
    log_p = logits.float().log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    top = log_p.topk(TOP_K)
    nucleus = (p.sort(-1, descending=True).values.cumsum(-1) < TOP_P).sum(-1) + 1
    return entropy, top.values, top.indices, nucleus


def refuse_if_wrong(logits: torch.Tensor, stats: PositionStats) -> None:
    """Compare some rows with the float64 reference; a wrong result is not timed."""
    rows = slice(0, 4)
    truth = reference.position_stats(logits[rows])
    if not torch.equal(stats.top_ids[rows], truth.top_ids):
        raise SystemExit("refused: top_ids differ from the reference")
    for name in ("log_partition", "entropy", "varentropy", "tail_log_mass"):
        got, want = getattr(stats, name)[rows].double(), getattr(truth, name)
        if not torch.allclose(got, want, rtol=1e-5, atol=1e-5):
            error = (got - want).abs().max()
            raise SystemExit(f"refused: {name} is off by {error:.2g}")


def medians(methods: dict, repeats: int) -> dict[str, float]:
    """Milliseconds by method; interleaved, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32, help="N, positions")
    parser.add_argument("--vocab", type=int, default=151_936, help="V")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backend", default="torch")
    args = parser.parse_args()

    torch.manual_seed(0)
    logits = (3 * torch.randn(args.rows, args.vocab)).to(getattr(torch, args.dtype))
    methods = {
        args.backend: lambda: position_stats(logits, backend=args.backend),
        "by_hand": lambda: by_hand(logits),
    }
    refuse_if_wrong(logits, position_stats(logits, backend=args.backend))  # also the warm-up
    ms = medians(methods, args.repeats)
    gigabytes = logits.numel() * logits.element_size() / 1e9
    speed = {name: gigabytes / (value / 1e3) for name, value in ms.items()}
    for name in methods:
        print(f"{name:>8}  {ms[name]:9.2f} ms  {speed[name]:7.3f} GB/s")
    ratio = ms["by_hand"] / ms[args.backend]
    print(f"{args.backend} is {ratio:.2f} times as fast as by hand")
    print(json.dumps({
        "benchmark": "position_stats", "device": "cpu", "threads": torch.get_num_threads(),
        "rows": args.rows, "vocab": args.vocab, "dtype": args.dtype,
        "ms": ms, "gb_per_s": speed, "ratio": ratio,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

"""Time `position_stats` against what people write, on this CPU or GPU.

    python benchmarks/position_stats.py                      # the whole grid
    python benchmarks/position_stats.py --rows 64 --vocab 151936 --dtype bfloat16

Peers: `user` (float32 log_softmax, entropy, top 20, nucleus size by a sort), `eager` (logsumexp and
topk, one exponential), `compiled` (torch.compile of `eager`), and `trl` where TRL is installed and
there is a GPU (its `entropy_from_logits`, entropy only; not tried yet). All give less than
`position_stats` does: no varentropy, no tail, K = 20 instead of 64.
GB/s counts the logits once (N * V * bytes an element), the least that any method must read, and
`of read` is its share of the bandwidth at which torch sums integers. The last line is JSON.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time

import torch
from timing import medians, normal_logits, read_bandwidth

from ssd_probe.kernels import reference
from ssd_probe.kernels.backends import choose
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats

ROWS, VOCABULARIES, DTYPES = (64, 512), (32_768, 128_256, 151_936, 201_088), ("float32", "bfloat16")
TOP_K, TOP_P = 20, 0.8


def user(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    log_p = logits.float().log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    top = log_p.topk(TOP_K)
    nucleus = (p.sort(-1, descending=True).values.cumsum(-1) < TOP_P).sum(-1) + 1
    return entropy, top.values, top.indices, nucleus


def eager(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = logits.float()
    log_partition = x.logsumexp(-1, keepdim=True)
    log_p = x - log_partition
    entropy = -(log_p.exp() * log_p).sum(-1)
    top = logits.topk(TOP_K)
    return log_partition, entropy, top.values, top.indices


def trl_entropy():
    """TRL's function, or None."""
    try:
        from trl.trainer.utils import entropy_from_logits
    except ImportError:
        return None
    return entropy_from_logits


def refuse_if_wrong(logits: torch.Tensor, stats: PositionStats) -> None:
    """Compare some rows with the float64 reference; a wrong result is not timed."""
    rows = slice(0, 4)
    truth = reference.position_stats(logits[rows])
    if not torch.equal(stats.top_ids[rows], truth.top_ids):
        raise SystemExit("refused: top_ids differ from the reference")
    for name in ("log_partition", "entropy", "varentropy", "tail_log_mass"):
        got, want = getattr(stats, name)[rows].double(), getattr(truth, name)
        if not torch.allclose(got, want, rtol=2e-6, atol=1e-6):
            error = (got - want).abs().max()
            raise SystemExit(f"refused: {name} is off by {error:.2g}")


def first_call_seconds() -> float:
    """Import and first call in a new process, with the cache of compiled kernels warm."""
    code = (
        "import torch, time; x = torch.randn(64, 1000); s = time.perf_counter();"
        "from ssd_probe.kernels.stats import position_stats; position_stats(x);"
        "print(time.perf_counter() - s)"
    )
    for _ in range(2):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(out.stdout)


def measure(rows: int, vocabulary: int, dtype: str, args: argparse.Namespace) -> dict:
    logits = normal_logits(rows, vocabulary, getattr(torch, dtype), args.device)
    refuse_if_wrong(logits, position_stats(logits, backend=args.backend))
    ours = {"ours": lambda: position_stats(logits, backend=args.backend)}
    peers = {"eager": lambda: eager(logits), "compiled": lambda: args.compiled(logits)}
    if args.device != "cpu" and args.trl:
        peers["trl"] = lambda: args.trl(logits)
    ms = medians({**ours, **peers}, args.repeats, args.device)
    # Its sort is so slow that it gets fewer rounds, beside ours again.
    slow = medians({**ours, "user": lambda: user(logits)}, max(1, args.repeats // 3), args.device)
    speed = logits.nbytes / ms["ours"] / 1e6
    ratios = {name: ms[name] / ms["ours"] for name in peers}
    ratios["user"] = slow["user"] / slow["ours"]
    return {"rows": rows, "vocab": vocabulary, "dtype": dtype, "ms": ms["ours"],
            "gb_per_s": speed, "ratios": ratios}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="N, positions")
    parser.add_argument("--vocab", type=int, nargs="*", default=VOCABULARIES)
    parser.add_argument("--dtype", nargs="*", choices=("float32", "bfloat16", "float16"),
                        default=DTYPES)  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()

    torch.manual_seed(0)
    args.compiled, args.trl = torch.compile(eager, dynamic=True), trl_entropy()
    bandwidth = read_bandwidth(args.device)
    backend, reason = choose(args.backend, torch.device(args.device))
    print(f"{backend} backend ({reason}), {torch.get_num_threads()} threads, "
          f"read bandwidth {bandwidth:.1f} GB/s")  # fmt: skip
    results = []
    for rows, vocabulary, dtype in itertools.product(args.rows, args.vocab, args.dtype):
        result = measure(rows, vocabulary, dtype, args)
        results.append(result)
        ratios = "  ".join(f"{r:5.1f}x {name}" for name, r in sorted(result["ratios"].items()))
        print(f"{rows:4d} x {vocabulary:7,d} {dtype:>8}  {result['ms']:8.2f} ms  "
              f"{result['gb_per_s']:7.2f} GB/s  {result['gb_per_s'] / bandwidth:4.0%} of read  "
              f"{ratios}", flush=True)  # fmt: skip
    first = first_call_seconds() if args.device == "cpu" else None
    print(f"first call in a new process, cache warm: {first} s")
    print(json.dumps({
        "benchmark": "position_stats", "device": args.device, "backend": backend,
        "threads": torch.get_num_threads(), "read_gb_per_s": bandwidth,
        "time": time.strftime("%Y-%m-%d"), "first_call_s": first, "results": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

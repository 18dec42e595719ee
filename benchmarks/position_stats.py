"""Time `position_stats` with targets against what people write, on this CPU or GPU.

    python benchmarks/position_stats.py                      # the whole grid of random logits
    python benchmarks/position_stats.py --rows 64 --vocab 151936 --dtype bfloat16
    python benchmarks/position_stats.py --model DIR --alone  # a model's logits of docs/method.md
    python benchmarks/position_stats.py --logits rows.npz    # or saved ones, [N, V]

Targets are the text's next tokens, or drawn from the logits; `beyond` is the share of those that
are not among the K = 64 likeliest. Peers: `user` (float32 log_softmax, entropy, top 20, nucleus
size by a sort), `eager` (logsumexp and topk, one exponential), `compiled` (torch.compile of
`eager`), and `trl` where TRL is installed and there is a GPU (its `entropy_from_logits`, entropy
only; not tried yet). All give less than `position_stats` does: no varentropy, no tail, no targets,
K = 20 instead of 64.
GB/s counts the logits once (N * V * bytes an element), the least that any method must read.
`of read` is the share of the bandwidth at which torch sums integers: of the same bytes, in turn
with the measured calls, which a cache may hold; and of 1 GiB, which none does. The last line is
JSON.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from timing import medians, normal_logits, read_bandwidth

from ssd_probe.kernels import reference
from ssd_probe.kernels.backends import choose
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats

ROWS, VOCABULARIES, DTYPES = (64,), (49_152, 151_936, 262_144), ("float32", "bfloat16")
TEXT = Path(__file__).parent.parent / "docs" / "method.md"
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


def drawn(logits: torch.Tensor) -> torch.Tensor:
    """A target for each row, from its own distribution."""
    return logits.float().softmax(-1).multinomial(1)[:, 0]


def of_model(path: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the first positions of `TEXT`, and the tokens that follow them."""
    from ssd_probe.models.checkpoints import load_model, load_tokenizer

    ids = load_tokenizer(path)(TEXT.read_text(), return_tensors="pt")["input_ids"][:, : rows + 1]
    with torch.inference_mode():
        return load_model(path)(ids[:, :-1]).logits[0].float(), ids[0, 1:]


def of_file(path: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] of a .npy file, or of `logits` in a .npz file, repeated to so many rows."""
    found = np.load(path)
    logits = torch.from_numpy(np.asarray(found if path.endswith(".npy") else found["logits"]))
    logits = logits.float().repeat(-(-rows // len(logits)), 1)[:rows]
    return logits, drawn(logits)


def cases(args: argparse.Namespace) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """What the logits are, the logits, and their targets."""
    real = [(of_model, args.model)] if args.model else []
    real += [(of_file, args.logits)] if args.logits else []
    for rows, dtype in itertools.product(args.rows, args.dtype):
        for read, path in real:
            logits, targets = read(path, rows)
            yield "real", logits.to(args.device, getattr(torch, dtype)), targets.to(args.device)
        for vocabulary in [] if real else args.vocab:
            logits = normal_logits(rows, vocabulary, getattr(torch, dtype), args.device)
            yield "random", logits, drawn(logits)


def measure(kind: str, logits: torch.Tensor, targets: torch.Tensor, args) -> dict:
    stats = position_stats(logits, targets=targets, backend=args.backend)
    refuse_if_wrong(logits, stats)
    words = logits.view(torch.int32) if logits.shape[1] % 2 == 0 else logits.view(torch.int16)
    ours = {
        "read": lambda: words.sum(dtype=torch.int32),
        "ours": lambda: position_stats(logits, targets=targets, backend=args.backend),
    }
    peers = {"eager": lambda: eager(logits), "compiled": lambda: args.compiled(logits)}
    if args.device != "cpu" and args.trl:
        peers["trl"] = lambda: args.trl(logits)
    peers = {} if args.alone else peers
    ms = medians({**ours, **peers}, args.repeats, args.device)
    ratios = {name: ms[name] / ms["ours"] for name in peers}
    if not args.alone:
        # Its sort is so slow that it gets fewer rounds, beside ours again.
        rounds = max(1, args.repeats // 3)
        slow = medians({**ours, "user": lambda: user(logits)}, rounds, args.device)
        ratios["user"] = slow["user"] / slow["ours"]
    return {
        "kind": kind, "rows": len(logits), "vocab": logits.shape[1], "dtype": str(logits.dtype)[6:],
        "beyond": (stats.target_rank > stats.top_ids.shape[1]).double().mean().item(),
        "ms": ms["ours"], "gb_per_s": logits.nbytes / ms["ours"] / 1e6,
        "of_same_bytes": ms["read"] / ms["ours"], "ratios": ratios,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="N, positions")
    parser.add_argument("--vocab", type=int, nargs="*", default=VOCABULARIES)
    parser.add_argument("--dtype", nargs="*", choices=("float32", "bfloat16", "float16"),
                        default=DTYPES)  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", help="folder of a checkpoint, whose logits are measured")
    parser.add_argument("--logits", help="a .npy or .npz file of them")
    parser.add_argument("--alone", action="store_true", help="no peers")
    args = parser.parse_args()

    torch.manual_seed(0)
    args.compiled, args.trl = torch.compile(eager, dynamic=True), trl_entropy()
    bandwidth = read_bandwidth(args.device)
    backend, reason = choose(args.backend, torch.device(args.device))
    print(f"{backend} backend ({reason}), {torch.get_num_threads()} threads, "
          f"read bandwidth {bandwidth:.1f} GB/s")  # fmt: skip
    results = []
    for case in cases(args):
        result = measure(*case, args)
        results.append(result)
        ratios = "  ".join(f"{r:5.1f}x {name}" for name, r in sorted(result["ratios"].items()))
        print("{kind:>6} {rows:4d} x {vocab:7,d} {dtype:>8}  beyond {beyond:4.0%}  {ms:8.2f} ms  "
              "{gb_per_s:7.2f} GB/s  {of_same_bytes:4.0%} of read".format(**result),
              f"({result['gb_per_s'] / bandwidth:4.0%} of 1 GiB)  {ratios}",
              flush=True)  # fmt: skip
    first = first_call_seconds() if args.device == "cpu" else None
    print(f"first call in a new process, cache warm: {first} s")
    print(json.dumps({
        "benchmark": "position_stats", "device": args.device, "backend": backend,
        "threads": torch.get_num_threads(), "read_gb_per_s": bandwidth,
        "time": time.strftime("%Y-%m-%d"), "first_call_s": first, "results": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

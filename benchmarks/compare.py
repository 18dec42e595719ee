"""Time and memory of comparing and drawing two probes of many positions.

    python benchmarks/compare.py                          # 2 million positions, K = 64
    python benchmarks/compare.py --positions 500000       # memory should be the same

Two probe folders of synthetic distributions (their making is not timed) go through `ssd-probe
compare --out`. Seconds are those of the clock and of the processor, in all its processes; memory is
the largest resident set of one of them. The last line is JSON.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from ssd_probe.files.parts import part_file, seal
from ssd_probe.files.writing import write_json
from ssd_probe.probing.table import SCHEMA_VERSION, schema, write_table

PART, TEXT, RANKS = 131_072, 2048, 64


def write_probe(path: Path, positions: int, sharpen: float) -> None:
    """A probe folder: half locks, half forks; `sharpen` scales the logits, as tuning might."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = -(-positions // PART)
    for number in range(parts):
        count = min(PART, positions - number * PART)
        write_part(path, number, rows(rng, count, number * PART, sharpen))
    settings = {"schema": SCHEMA_VERSION, "top_k": RANKS, "pair": None}
    record = {"settings": settings, "model": "synthetic", "tokenizer": "t", "head_rows": 50_000}
    write_json(path / "probe.json", {**record, "parts": parts, "rows": positions})


def rows(rng: np.random.Generator, count: int, first: int, sharpen: float) -> pa.Table:
    scale = rng.choice([0.3, 3.0], count)[:, None]  # forks fall slowly, locks fast
    fall = rng.exponential(scale, (count, RANKS)).cumsum(1)
    logits = (-sharpen * (fall - fall[:, :1])).astype(np.float32)
    ids = np.argsort(rng.random((count, RANKS)), axis=1).astype(np.int32)
    p = np.exp(logits.astype(float))
    total = p.sum(1) * (1 + 1e-4)
    number = np.arange(first, first + count)
    log_p = logits - np.log(total)[:, None]
    entropy = -(np.exp(log_p) * log_p).sum(1)
    text = number // TEXT
    columns = {
        "sample_id": [f"s{i}" for i in text], "problem_id": [f"p{i // 4}" for i in text],
        "position": number % TEXT, "token_id": number % 50_000, "token": ["a "] * count,
        "segment": ["code"] * count, "syntax": ["Name"] * count, "logprob": log_p[:, 0],
        "rank": np.ones(count), "max_logit": logits[:, 0], "log_partition": np.log(total),
        "entropy": entropy, "varentropy": entropy, "tail_log_mass": np.full(count, np.log(1e-4)),
        "padding_mass": np.zeros(count), "valid": np.ones(count, bool),
        "top_ids": pa.FixedSizeListArray.from_arrays(ids.ravel(), RANKS),
        "top_logits": pa.FixedSizeListArray.from_arrays(logits.ravel(), RANKS),
    }  # fmt: skip
    wanted = schema(RANKS)
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values).cast(field.type)
        for field, values in ((field, columns[field.name]) for field in wanted)
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)


def write_part(path: Path, number: int, table: pa.Table) -> None:
    seal(part_file(path, number), lambda file: write_table(table, file), rows=len(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="folder for the probes, used again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder)
        for name, sharpen in (("base", 1.0), ("tuned", 1.2)):
            if not (root / name).exists():
                write_probe(root / name, args.positions, sharpen)
        command = [sys.executable, "-m", "ssd_probe.cli", "compare", "--base", str(root / "base"),
                   "--tuned", str(root / "tuned"), "--out", str(root / "out"),
                   "--workers", str(args.workers)]  # fmt: skip
        adopt_orphans()
        load, start = os.getloadavg()[0], time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        await_orphans()
        drawn = len(list((root / "out").glob("*.png")))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "benchmark": "compare", "positions": args.positions, "ranks": RANKS,
        "workers": args.workers, "seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime,
        "mb": used.ru_maxrss / 1024, "figures": drawn, "load": load,
        "time": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(
        "{positions} positions, {workers} workers: {seconds:.0f} s by the clock, {cpu_seconds:.0f} "
        "s of the processor, {mb:.0f} MB, {figures} figures; load {load:.1f}".format(**found)
    )
    print(json.dumps(found))


def adopt_orphans() -> None:
    """Processes that outlive the command are waited for here, so that their seconds count."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def await_orphans() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()

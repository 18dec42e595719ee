"""`ssd-probe report` of a run whose probes hold a given number of positions.

    python benchmarks/report.py --run runs/quick                        # a million
    python benchmarks/report.py --run runs/quick --positions 100000 --keep large

--run is a finished run of `ssd-probe demo` or `run`. Its probes are written again, their rows
repeated under new names until there are so many, each copy of a text with up to a fiftieth of its
mass moved beyond the ranks, so that those that changed most are anywhere; all else is as it was.
The report is made by a new process. Seconds are those of the clock and of the processor; memory is
the process's largest resident set; bytes are those of the page. The last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssd_probe.files.parts import part_file, plan, seal
from ssd_probe.files.record import read_record
from ssd_probe.files.writing import write_json
from ssd_probe.probing.table import write_table


def tile(probe: Path, positions: int) -> int:
    """Repeat a probe's rows in its place to `positions` or a few more; how many they are."""
    record = read_record(probe / "probe.json")
    files = [part_file(probe, number) for number in range(record["parts"])]
    rows = pa.concat_tables(pq.read_table(file) for file in files)
    lengths = rows.group_by("sample_id", use_threads=False).aggregate([("position", "count")])
    counts = lengths["position_count"].to_pylist()
    copies = -(-positions // len(rows))
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    for number, texts in enumerate(plan(counts * copies)):
        pieces = []
        for text in texts:
            copy, which = divmod(text, len(counts))
            moved = random.random() / 50 if copy else 0.0
            pieces.append(_renamed(rows.slice(starts[which], counts[which]), copy, moved))
        table = pa.concat_tables(pieces)
        seal(part_file(probe, number), lambda path, t=table: write_table(t, path), rows=len(table))
    scale = {name: record[name] * copies for name in ("rows", "texts", "truncated", "invalid")}
    write_json(probe / "probe.json", {**record, **scale, "parts": number + 1})
    return len(rows) * copies


def _renamed(text: pa.Table, copy: int, moved: float) -> pa.Table:
    """A text as another one, of another problem, `moved` more in its log_partition (nats)."""
    at = text.schema.get_field_index("log_partition")
    partition = pa.array(text["log_partition"].to_numpy() + moved, pa.float32())
    text = text.set_column(at, text.schema.field("log_partition"), partition)
    for name in ("sample_id", "problem_id"):
        at = text.schema.get_field_index(name)
        named = [f"{value}~{copy}" if copy else value for value in text[name].to_pylist()]
        text = text.set_column(at, text.schema.field(name), pa.array(named, pa.string()))
    return text


def reported(run: Path) -> dict[str, float]:
    """What a new process takes for the report, and how large that is."""
    start = time.perf_counter()
    made = subprocess.Popen(
        [sys.executable, "-m", "ssd_probe.cli", "report", str(run)], stdout=sys.stderr
    )
    _, status, used = os.wait4(made.pid, 0)
    if status:
        raise SystemExit(f"the report failed: {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "bytes": (run / "report.html").stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the large run, used again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = args.keep or Path(temporary) / "run"
        if not run.exists():
            shutil.copytree(args.run, run, ignore=shutil.ignore_patterns("checkpoint*", ".lock"))
            for record in sorted(run.glob("probes/**/probe.json")):
                tile(record.parent, args.positions)
        rows = {
            str(path.parent.relative_to(run / "probes")): read_record(path)["rows"]
            for path in sorted(run.glob("probes/**/probe.json"))
        }
        found = [reported(run) for _ in range(args.repeats)]
    middle = sorted(found, key=lambda each: each["cpu_seconds"])[len(found) // 2]
    print(
        f"{middle['seconds']:.1f} s by the clock, {middle['cpu_seconds']:.1f} s of the processor, "
        f"peak {middle['peak_mb']:.0f} MB, page {middle['bytes'] / 1e6:.2f} MB; rows {rows}"
    )
    print(json.dumps({
        "benchmark": "report", "rows": rows, **middle, "runs": found,
        "time": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

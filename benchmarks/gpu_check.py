"""All that a first run on a GPU should try: one command, one report for LOG.md.

    make gpu-check                                                  # on a machine with a GPU
    TRITON_INTERPRET=1 python benchmarks/gpu_check.py --device cpu  # the same steps, dry, tiny

The kernels' tests and the fuzz on the device; logits on each device while another is current;
compute-sanitizer's memcheck and racecheck where it is installed; capture and replay as a CUDA
graph; the same bits for one row as among all; each kernel's time apart and the whole call's against
reading the logits once; latency of few rows. A step that fails does not end the others; the exit
status is 1 if any did.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton
from timing import normal_logits, read_bandwidth

from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose
from ssd_probe.kernels.gpu import pair as gpu_pair
from ssd_probe.kernels.gpu import stats as gpu_stats
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import COMPARISONS, PositionStats
from ssd_probe.kernels.stats import position_stats

ROOT = Path(__file__).parents[1]
TESTS = ("test_gpu", "test_accuracy", "test_pair_stats", "test_head", "test_front_door")
VOCABULARIES = (32_768, 49_152, 151_936, 262_144)
ROWS, FEW = 8192, (1, 2, 4, 8, 16, 32, 64)
CALLS = ("position_stats", "with targets", "pair_stats")


class Check:
    """The device, the sizes, and how time is taken there; a dry run has none of a GPU's parts."""

    def __init__(self, device: str) -> None:
        self.device, self.dry = device, device == "cpu"
        self.rows, self.few = (2, (1,)) if self.dry else (ROWS, FEW)
        self.vocabularies = (1024,) if self.dry else VOCABULARIES
        self.dtypes = (torch.bfloat16, torch.float32)
        self.repeats, self.cases = (1, 3) if self.dry else (20, 20_000)

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def milliseconds(self, run: Callable) -> float:
        """Of one call, the host's time included, until the device has done: a median."""
        times = []
        for _ in range(self.repeats + 1):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times[1:])

    def call(self, name: str, logits: torch.Tensor) -> Callable:
        targets = torch.arange(len(logits), device=logits.device) * 7919 % logits.shape[1]
        return {
            "position_stats": lambda: position_stats(logits, backend="triton"),
            "with targets": lambda: position_stats(logits, targets=targets, backend="triton"),
            "pair_stats": lambda: pair_stats(logits, logits.flip(0), backend="triton"),
        }[name]


def differing(a: PositionStats, b: PositionStats) -> list[str]:
    """Names of the columns of which not every bit is the same."""
    left, right = a.to_columns(), b.to_columns()
    return [n for n in left if left[n].tobytes() != right[n].tobytes()]


def step_facts(check: Check) -> Iterator[str]:
    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    yield f"- {time.strftime('%Y-%m-%d')}, commit {output('git', 'rev-parse', '--short', 'HEAD')}"
    yield f"- torch {torch.__version__}, Triton {triton.__version__}, {platform.python_version()}"
    if check.dry:
        yield f"- dry: Triton interpreted on {platform.machine()}; no time below means anything"
        return
    for i in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(i)
        yield (f"- cuda:{i}: {of.name}, {of.multi_processor_count} multiprocessors, "
               f"{of.total_memory / 2**30:.0f} GiB")  # fmt: skip
    smi = ("--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader")
    if shutil.which("nvidia-smi"):
        yield f"- driver, clocks, power limit: {output('nvidia-smi', *smi)}"


def _child(*command: str, seconds: int = 3600) -> str:
    """The last line of a command's output. Errors: `RuntimeError` with its last lines."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=seconds)  # fmt: skip
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(lines[-30:]))
    return lines[-1]


def step_tests(check: Check) -> Iterator[str]:
    files = [f"tests/{name}.py" for name in TESTS]
    chosen = ["tests/test_gpu.py", "-k", "nothing_to_do"] if check.dry else files
    quiet = ("-W", "ignore::RuntimeWarning")
    yield "- " + _child("-m", "pytest", "-q", f"--device={check.device}", *quiet, *chosen)
    command = ("-m", "tests.fuzz", "--backend=triton", f"--device={check.device}")
    yield "- fuzz: " + _child("-W", "ignore", *command, f"--cases={check.cases}")


def step_devices(check: Check) -> Iterator[str]:
    """Logits on each device while the first is current."""
    logits = normal_logits(3, 5003, torch.bfloat16, "cpu")
    first = position_stats(logits.to(check.device), backend="triton")
    count = 1 if check.dry else torch.cuda.device_count()
    for i in range(count):
        there = logits.to("cpu" if check.dry else f"cuda:{i}")
        assert not differing(first, position_stats(there, backend="triton")), f"cuda:{i} differs"
        pair = pair_stats(there, there.flip(0), backend="triton")
        assert pair.js.device == there.device and pair.js.isfinite().all(), f"pair on cuda:{i}"
    yield f"- the same bits on {count} device(s), cuda:0 being the current one"


def step_sanitizer(check: Check) -> Iterator[str]:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        yield "- compute-sanitizer is not installed: left out"
        return
    for name in ("memcheck", "racecheck", "initcheck"):
        command = [tool, f"--tool={name}", "--error-exitcode=1", sys.executable, __file__,
                   "--device", check.device, "--only", "devices"]  # fmt: skip
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # it sees each tensor
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        yield f"- {name}: " + (done.stdout.strip().splitlines() or ["no output"])[-1]
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def step_graphs(check: Check) -> Iterator[str]:
    """What was captured once gives the statistics of other logits in the same memory."""
    if check.dry:
        yield "- a CUDA graph needs a GPU: left out"
        return
    logits = normal_logits(16, 151_936, torch.bfloat16, check.device)
    for name in CALLS:
        run = check.call(name, logits)
        graph, found = _captured(run)
        logits.copy_(normal_logits(16, 151_936, torch.bfloat16, check.device))
        graph.replay()
        torch.cuda.synchronize()
        want = run()
        sides = [(found, want)] if name != "pair_stats" else [(found.base, want.base)]
        assert not any(differing(a, b) for a, b in sides), name
        if name == "pair_stats":
            for field in COMPARISONS:
                assert torch.equal(getattr(found, field), getattr(want, field)), field
        yield (f"- {name}, 16 x 151,936: captured, replayed, the same bits; a replay takes "
               f"{check.milliseconds(graph.replay):.3f} ms")  # fmt: skip


def _captured(run: Callable) -> tuple:
    """The graph of a call, after a warm-up on another stream as torch asks, and what it returns."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found


def step_bits(check: Check) -> Iterator[str]:
    for dtype in check.dtypes:
        logits = normal_logits(check.rows, check.vocabularies[0], dtype, check.device)
        whole = position_stats(logits, backend="triton")
        for row in {0, check.rows // 2, check.rows - 1}:
            alone = position_stats(logits[row : row + 1], backend="triton")
            unlike = differing(alone, whole.rows(slice(row, row + 1)))
            assert not unlike, f"{dtype}, row {row}: {unlike}"
    yield f"- a row alone has the bits that it has among {check.rows:,}"


def step_speed(check: Check) -> Iterator[str]:
    bandwidth = read_bandwidth(check.device, 2**20 if check.dry else 2**28)
    yield f"int32 is summed at {bandwidth:,.0f} GB/s; `floor` = the logits once at that.\n"
    yield "| N x V | dtype | call | ms | x floor | kernels, ms each |\n|---|---|---|---|---|---|"
    for vocabulary in check.vocabularies:
        for dtype in check.dtypes:
            logits = normal_logits(check.rows, vocabulary, dtype, check.device)
            for name in CALLS:
                run = check.call(name, logits)
                ms = check.milliseconds(run)
                floor = logits.nbytes * (2 if name == "pair_stats" else 1) / bandwidth / 1e6
                apart = ", ".join(f"{k} {v:.3f}" for k, v in kernel_times(check, run).items())
                shape = f"{check.rows:,} x {vocabulary:,} | {str(dtype)[6:]}"
                yield f"| {shape} | {name} | {ms:.3f} | {ms / floor:.2f} | {apart} |"
            del logits


def kernel_times(check: Check, run: Callable) -> dict[str, float]:
    """Median milliseconds of each kernel of a call, between events around its launch; one launched
    several times a call counts together."""
    calls: list[dict[str, list]] = []
    launch = gpu_stats.launch

    def timed(kernel, *arguments, **options):
        marks = _mark(check), launch(kernel, *arguments, **options), _mark(check)
        calls[-1].setdefault(kernel.fn.__name__, []).append((marks[0], marks[2]))

    gpu_stats.launch = gpu_pair.launch = timed
    try:
        for _ in range(check.repeats + 1):
            calls.append({})
            run()
        check.synchronize()
    finally:
        gpu_stats.launch = gpu_pair.launch = launch
    return {
        name: statistics.median(sum(_between(a, b) for a, b in call[name]) for call in calls[1:])
        for name in calls[-1]
    }


def _mark(check: Check):
    if check.dry:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start, end) -> float:
    return 1e3 * (end - start) if isinstance(start, float) else start.elapsed_time(end)


def step_latency(check: Check) -> Iterator[str]:
    """Few rows, as when a model is watched decoding: the host's launches take most of it."""
    yield "| N | V | call | us until done | us of the host |\n|---|---|---|---|---|"
    for rows in check.few:
        logits = normal_logits(rows, check.vocabularies[-1], torch.bfloat16, check.device)
        for name in CALLS:
            run = check.call(name, logits)
            done = 1e3 * check.milliseconds(run)
            check.synchronize()
            start = time.perf_counter()
            for _ in range(check.repeats):
                run()
            host = 1e6 * (time.perf_counter() - start) / check.repeats
            check.synchronize()
            yield f"| {rows} | {check.vocabularies[-1]:,} | {name} | {done:.0f} | {host:.0f} |"


STEPS = {
    name.removeprefix("step_"): step
    for name, step in list(globals().items()) if name.startswith("step_")
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", nargs="*", choices=tuple(STEPS), default=tuple(STEPS))
    parser.add_argument("--out", type=Path, help="a file for the report, besides stdout")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu_check: torch sees no GPU here; --device cpu is a dry run")
    try:
        choose("triton", torch.device(args.device))
    except UserError as error:
        raise SystemExit(f"gpu_check: {error}; a dry run needs TRITON_INTERPRET=1") from None
    if args.device == "cpu":  # or each call in the interpreter takes seconds
        sys.path.insert(0, str(ROOT))
        from tests.interpreter import patch_once

        patch_once()
    torch.manual_seed(0)
    check, failed, report = Check(args.device), [], ["## GPU check\n"]
    for name in args.only:
        report.append(f"\n### {name}\n")
        try:
            for line in STEPS[name](check):
                report.append(line)
                print(line, flush=True)
        except Exception as error:
            failed.append(name)
            report.append(f"**FAILED**: {type(error).__name__}\n\n```\n{error}\n```")
            print(report[-1], flush=True)
    report.append("\n" + (f"FAILED: {', '.join(failed)}" if failed else "All steps passed."))
    print(report[-1])
    if args.out:
        args.out.write_text("\n".join(report) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

"""Compile every Triton kernel ahead of time, no GPU needed, and refuse code that got worse.

    python benchmarks/aot.py --targets sm_90 gfx942 --dtypes fp32 bf16

`make aot TRITON=3.5.1` gates that version of Triton. Targets without a budget (older and smaller
ones) are only compiled.

A line for each kernel, target and dtype: registers, spills (to memory), shared bytes, the widths in
bits of the loads in the main loop, and that loop's instructions for each logit: SASS for CUDA, for
HIP the final assembly's vector and memory instructions (scalar ones issue beside them). Exit
status 1, a line each, on: a spill, a load below 128 bits, more instructions than the budget, a
value subtracted from itself (a product is fused with it, and 0 becomes its rounding error).

The times are a model, `compiled/model.py`: of the time that reading the row once takes. `_scan` is
counted by its loops, and in brackets with the code around them; `_finalise` by row. The whole call
is `_scan` + `_finalise`, one after the other.
"""

import argparse
import json
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter compiles nothing

import triton
from compiled.code import amdgcn, is_exponential, issued, load_width, main_loop, sass
from compiled.kernels import ITEMSIZE, KERNELS, TARGETS, VOCABULARY
from compiled.model import DEVICES, finalised, scanned, scratch, times_the_floor
from triton.compiler import ASTSource

WHOLE = 1.4  # times the floor on an H100, all code of a whole call at `VOCABULARY` in bf16


def build(name: str, dtype: str, target: str) -> dict[str, Any]:
    """Compile one kernel; what the compiler made of it."""
    kernel, gpu_target = KERNELS[name], TARGETS[target]
    constants = kernel.constants(dtype)
    types = kernel.arguments(dtype) | dict.fromkeys([*constants, "W"], "constexpr")
    names = kernel.function.arg_names
    signature = {argument: types[argument] for argument in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(names) if str(types[argument]).startswith("*")
    }  # fmt: skip
    warp = gpu_target.warp_size
    if kernel.threads is None:
        constants["W"] = warp
    options = {"num_warps": (kernel.threads or warp) // warp, "enable_fp_fusion": True}
    hip = gpu_target.backend == "hip"
    if kernel.register_limit and not hip:
        options["maxnreg"] = kernel.register_limit
    source = ASTSource(kernel.function, signature, constants, aligned)
    compiled = triton.compile(source, target=gpu_target, options=options)
    report = amdgcn(compiled.asm["amdgcn"]) if hip else sass(compiled.asm["cubin"])
    code = report.pop("code")
    loop = main_loop(code, kernel.exponentials)
    widths = [width for line in loop if (width := load_width(line))]
    logits = sum(widths) / 8 / ITEMSIZE[dtype] / kernel.rows
    per_logit = issued(loop) / logits if logits else float("inf")
    exponentials = sum(map(is_exponential, loop)) / max(logits, 1)
    size, vocabulary = ITEMSIZE[dtype], kernel.vocabulary
    row = around = None
    if kernel.streams:
        read = vocabulary * size * kernel.rows + scratch(vocabulary, size)
        row = read, vocabulary * per_logit, vocabulary * exponentials
        if name == "scan" and not hip:
            row, around = scanned(code, vocabulary, size), scanned(code, vocabulary, size, True)
    else:
        row = finalised(code, vocabulary, size, warp)

    def times(row: tuple[float, float, float] | None) -> dict[str, float]:
        floor, devices = vocabulary * size * kernel.rows, DEVICES.get(target, {}) if row else {}
        return {device: round(times_the_floor(row, floor, *facts), 2)
                for device, facts in devices.items()}  # fmt: skip

    return {
        "kernel": name, "target": target, "dtype": dtype, **report,
        "shared": compiled.metadata.shared,
        "load_bits": sorted(set(widths)), "instructions_a_logit": round(per_logit, 2),
        "counted": "amdgcn" if hip else "SASS",
        "row": row,
        "times_the_floor": times(row), "with_code_around": times(around),
        "from_itself": len(re.findall(r"arith\.subf (%\S+), \1 ", compiled.asm["ttir"])),
    }  # fmt: skip


def problems(report: dict[str, Any]) -> list[str]:
    if report["target"] not in DEVICES:
        return []
    kernel = KERNELS[report["kernel"]]
    where = f"{report['kernel']} on {report['target']} in {report['dtype']}"
    budget = kernel.budget[ITEMSIZE[report["dtype"]]][report["target"].startswith("gfx")]
    found = []
    if report["spills"]:
        found.append(f"{where}: {report['spills']} spills")
    if min(report["load_bits"], default=0) < (128 if kernel.wide else 1):
        found.append(f"{where}: loads of {report['load_bits']} bits in the main loop")
    if report["from_itself"]:
        found.append(f"{where}: {report['from_itself']} values subtracted from themselves")
    if report["instructions_a_logit"] > budget:
        found.append(f"{where}: {report['instructions_a_logit']} instructions, budget {budget}")
    return found


def whole_calls(reports: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """A line for each dtype and device, `position_stats` over the floor; and what is wrong."""
    lines, wrong = [], []
    found = {(r["kernel"], r["target"], r["dtype"]): r["times_the_floor"] for r in reports}
    around = {(r["target"], r["dtype"]): r["with_code_around"] for r in reports
              if r["kernel"] == "scan"}  # fmt: skip
    for (name, target, dtype), of_scan in found.items():
        closed = found.get(("finalise, K = 64", target, dtype))
        if name != "scan" or closed is None:
            continue
        for device, x in of_scan.items():
            if device not in closed and not target.startswith("sm_"):
                continue  # AMD's compiler orders the loops in its own way
            if device not in closed:
                wrong.append(f"finalise on {target} in {dtype}: loops in an unknown order")
                continue
            y = closed[device]
            lines.append(
                f"whole call, {VOCABULARY:,}, {dtype}, {device}: {x + y:.2f} (scan {x}, rest {y})"
            )
            whole = around[target, dtype].get(device, x) + y
            if device in around[target, dtype]:
                lines[-1] += f" [{whole:.2f}]"
            if dtype == "bf16" and device == "H100" and whole > WHOLE:
                wrong.append(f"{lines[-1]}, budget {WHOLE}")
    return lines, wrong


_HEADINGS = ("kernel", "target", "dtype", "registers", "stack", "spills", "shared", "load bits",
             "instr/logit", "counted", "model: times the floor")  # fmt: skip


def _line(cells: Sequence[object]) -> str:
    widths = (23, 7, 5, 9, 5, 6, 6, 9, 11, 7, 0)
    return "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True))


def _row(r: dict[str, Any]) -> str:
    model = "  ".join(f"{name} {x:.2f}" for name, x in r["times_the_floor"].items())
    return _line([
        r["kernel"], r["target"], r["dtype"], r["registers"], r["stack"], r["spills"], r["shared"],
        ",".join(map(str, r["load_bits"])), r["instructions_a_logit"], r["counted"], model,
    ])  # fmt: skip


def unknown(targets: Sequence[str]) -> list[str]:
    """Those that this Triton's own assemblers do not know: 3.5.1 has none for sm_103."""
    tools = Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*")
    helps = [subprocess.run([tool, "--help"], capture_output=True, text=True) for tool in tools]
    known = set(re.findall(r"sm_\d+", " ".join(done.stdout for done in helps)))
    return [name for name in targets if name.startswith("sm_") and name not in known]


def _build(case: tuple[str, str, str]) -> dict[str, Any]:
    return build(*case)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=ITEMSIZE, default=["fp32", "bf16"])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--json", action="store_true", help="a JSON list instead of lines")
    args = parser.parse_args()
    left_out = unknown(args.targets)
    targets = [target for target in args.targets if target not in left_out]
    cases = [(k, d, t) for k in args.kernels for t in targets for d in args.dtypes]
    with ProcessPoolExecutor() as pool:
        reports = list(pool.map(_build, cases))
    lines, wrong = whole_calls(reports)
    wrong += [line for report in reports for line in problems(report)]
    if args.json:
        print(json.dumps({"reports": reports, "problems": wrong}))
    else:
        print("\n".join([_line(_HEADINGS), *map(_row, reports), *lines, *wrong]))
        print(f"Triton {triton.__version__}: {len(reports)} compiled, {len(wrong)} problems")
        if left_out:
            print(f"not known to its assemblers, left out: {', '.join(left_out)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

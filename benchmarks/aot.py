"""Compile every Triton kernel ahead of time, no GPU needed, and refuse code that got worse.

    python benchmarks/aot.py --targets sm_90 gfx942 --dtypes fp32 bf16

Run it with the Python of an environment that holds another Triton to gate that one. Targets without
a budget (older and smaller ones) are only compiled.

A line for each kernel, target and dtype: registers, spills (to memory), shared bytes, the widths in
bits of the loads in the main loop, and that loop's instructions for each logit: SASS for CUDA, for
HIP the final assembly's vector and memory instructions (scalar ones issue beside them). Exit
status 1, a line each, on: a spill, a load below 128 bits, more instructions than the budget.

The times are a model, not measurements: of the time that reading the row once takes at the data
sheet's bandwidth, how much a kernel takes if it is the larger of reading, issuing (half of the
data sheet's issue rate) and exponentials (16 lanes a clock and multiprocessor). 1.00 is the floor.
`_finalise` is counted by row: its straight code once, its loops as often as `TRIPS` says. The whole
call is `_scan` + `_finalise`, one after the other. That half of the issue rate is reached, that 16
rows a multiprocessor hide the latencies of `_finalise`, and what the caches hold, only a GPU can
tell.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter compiles nothing

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssd_probe.kernels.gpu import finalise, pair, scan, stats

TARGETS = {
    **{f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100, 103, 120, 75, 89)},
    **{name: GPUTarget("hip", name, 64) for name in ("gfx942", "gfx90a", "gfx950")},
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}  # fmt: skip
# Multiprocessors, GHz (boost), TB/s, lanes issued a clock and multiprocessor; vendors' data sheets.
DEVICES = {
    "sm_80": {"A100": (108, 1.41, 2.04, 128)},
    "sm_90": {"H100": (132, 1.755, 3.35, 128), "H200": (132, 1.755, 4.8, 128)},
    "sm_100": {"B200": (148, 1.85, 8.0, 128)},
    "sm_103": {"B300": (148, 1.92, 8.0, 128)},
    "sm_120": {"RTX 5090": (170, 2.41, 1.79, 128)},
    "gfx942": {"MI300X": (304, 2.1, 5.3, 64)},
}  # the others have no budget
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
VOCABULARY = 151_936
ISSUE, EXPONENTIALS = 0.5, 16
# Of `_finalise` at K = 64, in the interpreter, five rows (two normal, two with a Zipf-like head, a
# lock) in bf16 and fp32: 2 to 18 steps of the lanes' selection by value (median 12) and 0 to 7 by
# id; 64 to 70 logits ranked; never a second pass over the lanes or the candidates.
TRIPS = {"by value": 14, "by id": 2, "ranked": 68}
WHOLE = 1.6  # times the floor on an H100, of the whole call at `VOCABULARY` in bf16


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as its launcher compiles it for `VOCABULARY`.

    `arguments`, `constants`: of the dtype, types and constexprs by name, where "logits" stands for
    a pointer to it. The main loop is that with exponentials, or with loads if not
    `exponentials`. `rows`: logits it reads for one it counts. `budget`: instructions a logit,
    (CUDA, HIP), for 4-byte and 2-byte logits.
    """

    function: Any
    arguments: Callable[[str], dict[str, Any]]
    constants: Callable[[str], dict[str, Any]]
    budget: dict[int, tuple[float, float]]
    exponentials: bool = True
    rows: int = 1
    streams: bool = True  # its main loop reads the whole row: the model applies
    wide: bool = True  # its loads must be of 128 bits
    register_limit: int | None = None  # on CUDA
    threads: int | None = scan.LANES.value  # None: one warp
    vocabulary: int = VOCABULARY


def _pointers(dtype: str, names: str) -> dict[str, Any]:
    kinds = {"L": f"*{dtype}", "F": "*fp32", "I": "*i32", "J": "*i64", "B": "*i1", "n": "i32"}
    return {name: kinds[kind] for name, kind in (item.split(":") for item in names.split())}


def _lanes(dtype: str) -> dict[str, Any]:
    return {"E": 16 // ITEMSIZE[dtype], "ALIGNED": True}


def _scan(
    temperatures: int, budget: dict[int, tuple[float, float]], aligned: bool = True
) -> Kernel:
    return Kernel(
        scan._scan,
        lambda dtype: {
            **_pointers(dtype, "logits:L stride:n size:n steps:n"),
            "inverse_t": ("fp32",) * temperatures,
            **_pointers(dtype, "scratch:F"),
        },
        lambda dtype: {
            **_lanes(dtype), "U": scan.UNROLL * ITEMSIZE[dtype] // 16, "ALIGNED": aligned,
        },
        budget,
        wide=aligned,
    )  # fmt: skip


def _finalise(top_k: int, vocabulary: int = VOCABULARY) -> Kernel:
    kp = max(16, top_k)
    return Kernel(
        finalise._finalise,
        lambda dtype: {
            **_pointers(dtype, "logits:L stride:n size:n steps:n segments:n"),
            "inverse_t": (),
            **_pointers(dtype, "scratch:F fields:F valid:B top_logits:F top_ids:I"),
        },
        lambda dtype: _lanes(dtype) | {
            "K": top_k, "KP": kp, "U": scan.UNROLL * ITEMSIZE[dtype] // 16,
            "S": triton.next_power_of_2(scan.geometry(vocabulary, ITEMSIZE[dtype])[2]),
        },
        {4: (18, 18), 2: (15, 15)},
        streams=False,
        register_limit=stats.register_limit(kp),
        threads=None,
        vocabulary=vocabulary,
    )  # fmt: skip


KERNELS = {
    "scan": _scan(0, {4: (12, 12), 2: (12, 12)}),
    "scan, 2 temperatures": _scan(2, {4: (17, 18), 2: (18, 17)}),
    "scan, rows off 16 bytes": _scan(0, {4: (13, 13), 2: (15, 15)}, aligned=False),
    # These read only the lanes that hold the top K, some percent of the row.
    "finalise, K = 64": _finalise(64),
    "finalise, V = 32,768": _finalise(64, 32_768),
    "finalise, K = 128": _finalise(128),
    "rank": Kernel(
        stats._rank,
        lambda dtype: _pointers(dtype, "logits:L stride:n size:n targets:J fields:F")
        | _pointers(dtype, "valid:B top_ids:I target_logprob:F target_rank:I"),
        lambda dtype: _lanes(dtype) | {"K": 64, "KP": 64},
        {4: (9, 9), 2: (9, 10)},
        exponentials=False,
    ),
    "pair": Kernel(
        pair._pair,
        lambda dtype: _pointers(dtype, "x_ptr:L y_ptr:L rows_ptr:F out_ptr:F")
        | _pointers(dtype, "x_stride:n y_stride:n size:n segments:n"),
        lambda dtype: {
            "SEGMENT": pair.SEGMENT, "BLOCK": pair.THREADS * 16 // ITEMSIZE[dtype],
            "ALIGNED": True, "EXACT": ITEMSIZE[dtype] == 2,
        },
        {4: (75, 50), 2: (70, 50)},
        rows=2,
        threads=pair.THREADS,
    ),
}  # fmt: skip


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
    report = _amdgcn(compiled.asm["amdgcn"]) if hip else _sass(compiled.asm["cubin"])
    code = report.pop("code")
    loop = _main_loop(code, kernel.exponentials)
    widths = [width for line in loop if (width := _load_width(line))]
    logits = sum(widths) / 8 / ITEMSIZE[dtype] / kernel.rows
    per_logit = _issued(loop) / logits if logits else float("inf")
    exponentials = sum(map(_is_exponential, loop)) / max(logits, 1)
    row: tuple[float, float, float] | None
    if kernel.streams:
        n, size = kernel.vocabulary, ITEMSIZE[dtype]
        row = n * size * kernel.rows + _scratch(n, size), n * per_logit, n * exponentials
    else:
        row = _finalised(code, kernel.vocabulary, ITEMSIZE[dtype], warp)
    return {
        "kernel": name, "target": target, "dtype": dtype, **report,
        "shared": compiled.metadata.shared,
        "load_bits": sorted(set(widths)), "instructions_a_logit": round(per_logit, 2),
        "counted": "amdgcn" if hip else "SASS",
        "row": row,
        "times_the_floor": {
            device: round(_model(row, kernel.vocabulary * ITEMSIZE[dtype] * kernel.rows, *facts), 2)
            for device, facts in DEVICES.get(target, {}).items()
        } if row else {},
    }  # fmt: skip


def _scratch(vocabulary: int, itemsize: int) -> int:
    """Bytes a row that `_scan` leaves to `_finalise`."""
    return scan.geometry(vocabulary, itemsize)[2] * scan.LANES.value * 20


def _model(
    row: tuple[float, float, float], floor: float, cores: int, ghz: float, tb: float, lanes: int
) -> float:
    """The time of a row's bytes, instructions and exponentials over that of `floor` bytes."""
    read, instructions, exponentials = row
    clocks = cores * ghz * 1e9
    issue = instructions / (clocks * lanes * ISSUE)
    time = max(read / (tb * 1e12), issue, exponentials / (clocks * EXPONENTIALS))
    return time / (floor / (tb * 1e12))


def _finalised(
    code: list[tuple[int, str, int | None]], vocabulary: int, itemsize: int, warp: int
) -> tuple[float, float, float] | None:
    """Bytes, instructions and exponentials of one row in `_finalise` (K = 64, a warp of threads).

    Its loops in order: the lanes' selection by value and by id; the lanes read again; surveys and
    a second reading, for rows that are rare; the candidates kept, and again for rare rows; ranked,
    unrolled by 4; the candidates left. None where the code has another order.
    """
    loops = _loops(code)
    reads = [i for i, (_, _, text) in enumerate(loops) if max(map(_load_width, text)) >= 128]
    again = [i for i in reads if sum(map(_is_exponential, loops[i][2])) > 8]
    if len(again) != 2 or again[0] != 2:
        return None
    lanes, steps = 64, scan.geometry(vocabulary, itemsize)[1]
    unrolled = scan.UNROLL * itemsize // 16
    passes = -(-(TRIPS["ranked"] + 1) // warp)
    trips = [0] * len(loops)
    trips[:3] = TRIPS["by value"], TRIPS["by id"], -(-lanes // warp) * -(-steps // unrolled)
    kept, left, ranked = again[1] + 1, len(loops) - 1, again[1] + 5
    trips[kept], trips[left], trips[ranked] = passes, passes, TRIPS["ranked"] // 4
    rare = range(loops[2][1] + 1, loops[again[1]][1] + 1)
    inside = {i for first, last, _ in loops for i in range(first, last + 1)}
    straight = [text for i, (_, text, _) in enumerate(code) if i not in inside and i not in rare]
    parts = [(1, straight), *zip(trips, (text for _, _, text in loops), strict=True)]
    sectors = lanes * steps * 32  # of 16 bytes, 32 are brought
    return (
        _scratch(vocabulary, itemsize) + sectors,
        warp * sum(n * _issued(text) for n, text in parts),
        warp * sum(n * sum(map(_is_exponential, text)) for n, text in parts),
    )


def _issued(lines: Sequence[str]) -> int:
    return sum(not line.startswith("s_") for line in lines)


def _sass(cubin: bytes) -> dict[str, Any]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, usage = (
            subprocess.run(
                [tool, flag, file.name], check=True, capture_output=True, text=True
            ).stdout
            for flag in ("-sass", "-res-usage")
        )
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", sass, re.M)
    code = [(int(address, 16), text) for address, text in lines]
    # Stack alone is no spill: a float64 division that is called keeps 8 bytes there.
    spills = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in code)
    return {
        "registers": int(found["REG"]), "stack": int(found["STACK"]), "spills": spills,
        "code": [(at, text, _target(text)) for at, text in code],
    }  # fmt: skip


def _target(sass: str) -> int | None:
    jump = re.search(r"\bBRA\b.*?(?:`\(\S+\)|0x([0-9a-f]+))\s*$", sass)
    return int(jump[1], 16) if jump and jump[1] else None


def _amdgcn(text: str) -> dict[str, Any]:
    """Scalar registers may go to vector registers' lanes: only what goes to memory is a spill."""
    found = {key: int(value) for key, value in re.findall(r"\.(\w+): +(\d+)$", text, re.M)}
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in (line.split(";")[0].strip() for line in text.split(".Lfunc_end")[0].splitlines()):
        if re.match(r"\.LBB\w+:$", line):
            labels[line[:-1]] = len(lines)
        elif re.match(r"[a-z]\w+( |$)", line):
            lines.append(line)
    jumps = [re.match(r"s_c?branch\w* (\.LBB\w+)", line) for line in lines]
    return {
        "registers": found["vgpr_count"], "stack": found["private_segment_fixed_size"],
        "spills": found["vgpr_spill_count"],
        "code": [(i, line, labels.get(jump[1]) if jump else None)
                 for i, (line, jump) in enumerate(zip(lines, jumps, strict=True))],
    }  # fmt: skip


def _loops(code: list[tuple[int, str, int | None]]) -> list[tuple[int, int, list[str]]]:
    """The innermost loops in the order of the code: first and last place, instructions."""
    place = {at: i for i, (at, _, _) in enumerate(code)}
    spans = [(place[to], i) for i, (_, _, to) in enumerate(code)
             if to is not None and place.get(to, i) < i]  # fmt: skip
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [(a, b, [text for _, text, _ in code[a : b + 1]]) for a, b in sorted(inner)]


def _main_loop(code: list[tuple[int, str, int | None]], exponentials: bool) -> list[str]:
    """The innermost loop (with exponentials) that loads most; the shortest of equals.

    `_scan` holds a second, longer copy of its loop for logits beyond 2.3e38.
    """
    loops = [text for _, _, text in _loops(code) if any(map(_load_width, text))]
    if exponentials:
        loops = [loop for loop in loops if any(_is_exponential(text) for text in loop)]
    return max(loops, key=lambda loop: (sum(map(_load_width, loop)), -len(loop)), default=[])


def _load_width(text: str) -> int:
    """Bits that a load from global memory brings to a thread; 0 for anything else."""
    if sass := re.search(r"\bLDG\.E\S*", text):
        width = re.search(r"\.(U?S?8|U?S?16|64|128|256)\b", sass[0])
        return int(re.sub(r"\D", "", width[1])) if width else 32
    if amd := re.match(r"(?:global|buffer)_load_(\w+)", text):
        parts = re.search(r"dwordx(\d)", amd[1])
        return 32 * int(parts[1]) if parts else 32 if "dword" in amd[1] else 16
    return 0


def _is_exponential(text: str) -> bool:
    return "MUFU.EX2" in text or text.startswith("v_exp_")


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
    if report["instructions_a_logit"] > budget:
        found.append(f"{where}: {report['instructions_a_logit']} instructions, budget {budget}")
    return found


def whole_calls(reports: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """A line for each dtype and device, `position_stats` over the floor; and what is wrong."""
    lines, wrong = [], []
    found = {(r["kernel"], r["target"], r["dtype"]): r["times_the_floor"] for r in reports}
    for (name, target, dtype), scanned in found.items():
        closed = found.get(("finalise, K = 64", target, dtype))
        if name != "scan" or closed is None:
            continue
        for device, x in scanned.items():
            if device not in closed and not target.startswith("sm_"):
                continue  # AMD's compiler orders the loops in its own way
            if device not in closed:
                wrong.append(f"finalise on {target} in {dtype}: loops in an unknown order")
                continue
            y = closed[device]
            lines.append(
                f"whole call, {VOCABULARY:,}, {dtype}, {device}: {x + y:.2f} (scan {x}, rest {y})"
            )
            if dtype == "bf16" and device == "H100" and x + y > WHOLE:
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


def _build(case: tuple[str, str, str]) -> dict[str, Any]:
    return build(*case)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=ITEMSIZE, default=["fp32", "bf16"])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--json", action="store_true", help="a JSON list instead of lines")
    args = parser.parse_args()
    cases = [(k, d, t) for k in args.kernels for t in args.targets for d in args.dtypes]
    with ProcessPoolExecutor() as pool:
        reports = list(pool.map(_build, cases))
    lines, wrong = whole_calls(reports)
    wrong += [line for report in reports for line in problems(report)]
    if args.json:
        print(json.dumps({"reports": reports, "problems": wrong}))
    else:
        print("\n".join([_line(_HEADINGS), *map(_row, reports), *lines, *wrong]))
        print(f"Triton {triton.__version__}: {len(reports)} compiled, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

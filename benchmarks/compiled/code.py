"""What the compiler made: instructions, loops, loads; of SASS for CUDA, of AMD's final assembly."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton

Code = list[tuple[int, str, int | None]]  # place, instruction, where it jumps


def issued(lines: Sequence[str]) -> int:
    return sum(not line.startswith("s_") for line in lines)


def sass(cubin: bytes) -> dict[str, Any]:
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
    # What follows is `;`, or with some versions what the scheduler is told.
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*(?:;|&\w+=|\?\w)", sass, re.M)
    code = [(int(address, 16), text) for address, text in lines]
    # Stack alone is no spill: a float64 division that is called keeps 8 bytes there.
    spills = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in code)
    return {
        "registers": int(found["REG"]), "stack": int(found["STACK"]), "spills": spills,
        "code": [(at, text, target(text)) for at, text in code],
    }  # fmt: skip


def target(sass: str) -> int | None:
    jump = re.search(r"\bBRA\b.*?(?:`\(\S+\)|0x([0-9a-f]+))\s*$", sass)
    return int(jump[1], 16) if jump and jump[1] else None


def amdgcn(text: str) -> dict[str, Any]:
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


def loops(code: Code) -> list[tuple[int, int, list[str]]]:
    """The innermost loops in the order of the code: first and last place, instructions."""
    place = {at: i for i, (at, _, _) in enumerate(code)}
    spans = [(place[to], i) for i, (_, _, to) in enumerate(code)
             if to is not None and place.get(to, i) < i]  # fmt: skip
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [(a, b, [text for _, text, _ in code[a : b + 1]]) for a, b in sorted(inner)]


def main_loop(code: Code, exponentials: bool) -> list[str]:
    """The innermost loop (with exponentials) that loads most; the shortest of equals.

    `_scan` holds a second, longer copy of its loop for logits beyond 2.3e38.
    """
    found = [text for _, _, text in loops(code) if any(map(load_width, text))]
    if exponentials:
        found = [loop for loop in found if any(is_exponential(text) for text in loop)]
    return max(found, key=lambda loop: (sum(map(load_width, loop)), -len(loop)), default=[])


def load_width(text: str) -> int:
    """Bits that a load from global memory brings to a thread; 0 for anything else."""
    if sass := re.search(r"\bLDG\.E\S*", text):
        width = re.search(r"\.(U?S?8|U?S?16|64|128|256)\b", sass[0])
        return int(re.sub(r"\D", "", width[1])) if width else 32
    if amd := re.match(r"(?:global|buffer)_load_(\w+)", text):
        parts = re.search(r"dwordx(\d)", amd[1])
        return 32 * int(parts[1]) if parts else 32 if "dword" in amd[1] else 16
    return 0


def is_exponential(text: str) -> bool:
    return "MUFU.EX2" in text or text.startswith("v_exp_")

"""The toy machine's solution as a person reads it."""

from typing import Any

import numpy as np
from scipy.special import entr

from ssd_probe.analysis.toy.machine import Machine


def describe(machine: Machine, solved: dict[str, Any]) -> str:
    """`solve`'s result as a table for people; the lowest temperature of each optimum."""
    base, student = machine.positions, machine.student()
    width = max(8, *(len(s.name) for s in base))
    lines = [f"student: exact ideal fit at {machine.train}", ""]
    lines += [f"{'position':<{width}}  times  bits, base -> student    tokens     right"]
    for before, after in zip(base, student, strict=True):
        bits = [float(entr(s.probabilities).sum() / np.log(2)) for s in (before, after)]
        sizes = [int((s.probabilities > 0).sum()) for s in (before, after)]
        right = ", ".join(f"tok{i}" for i in before.right)
        lines.append(
            f"{before.name:<{width}}  {before.times:>5}  {bits[0]:>10.2f} -> {bits[1]:<11.2f}"
            f"{sizes[0]:>6} -> {sizes[1]:<4}  {right}"
        )
    lines += ["", "top-p    base: success  at T       student: success  at T"]
    chosen = {"top_p": machine.evaluation.top_p, "base": solved["base"]}
    rows = [*solved["robustness"], chosen | {"student": solved["student"]}]
    for row in sorted({row["top_p"]: row for row in rows}.values(), key=lambda row: row["top_p"]):
        cells = (f"{100 * row[m]['success']:>11.3f} %  {row[m]['temperature']:<9.4f}"
                 for m in ("base", "student"))  # fmt: skip
        mark = "  <- evaluation" if row["top_p"] == machine.evaluation.top_p else ""
        lines.append(f"{row['top_p']:<8g}" + "     ".join(cells).rstrip() + mark)
    return "\n".join(lines)

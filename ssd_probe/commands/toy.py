"""`ssd-probe toy`: a machine, the paper's or from a file, solved and drawn."""

from pathlib import Path
from typing import Any

from ssd_probe.analysis.toy.machine import PAPER
from ssd_probe.analysis.toy.reading import load_machine
from ssd_probe.analysis.toy.solving import solve
from ssd_probe.views.toy import describe


def toy_stage(machine: Path | None, out: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The solution, and it in words; with `out` Figures 12-14 go into that folder."""
    chosen = PAPER if machine is None else load_machine(machine)
    solved = solve(chosen)
    lines = [describe(chosen, solved)]
    if out is not None:
        from ssd_probe.analysis.toy.plot_data import toy_pictures
        from ssd_probe.figures.toy import draw_toy

        lines += draw_toy(toy_pictures(chosen, solved), out).lines()
    return solved, lines

"""`ssd-probe demo`: the short name of `ssd-probe run tiny`."""

from pathlib import Path
from typing import Any

from ssd_probe.commands.loop.presets import Chosen, choose
from ssd_probe.commands.loop.run import Say, run_stage


def demo_config(quick: bool = False, **changes: Any) -> Chosen:
    """The preset `tiny` with other values of the keys of its file."""
    return choose("tiny", quick=quick, changes=changes)


def demo_stage(out: Path, config: Chosen, say: Say = print) -> dict:
    """Run, or go on with, the demo in folder `out`; returns the content of its summary.json."""
    return run_stage(config, out, say)

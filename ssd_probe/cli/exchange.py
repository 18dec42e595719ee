"""Commands that look beyond one run: diff."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import AsJson, print_json, print_told


def diff(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, samples, a checkpoint of `train`, a result of `evaluate`.",
            show_default=False,
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(
            help="Another of these; or `paper`, `paper:MODEL`, `ml-ssd`.", show_default=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """What differs between two runs, or a run and a published recipe, the weightiest first.

    `paper` is the preset of the paper's model that the run's is, else of qwen3-4b-instruct;
    `ml-ssd` is Apple's published repository.

    \b
    Examples:
      ssd-probe diff runs/demo paper
      ssd-probe diff runs/mine ml-ssd
      ssd-probe diff runs/mine runs/theirs --json
    """
    from ssd_probe.commands.diffing.stage import diff_stage
    from ssd_probe.views.diff import told

    found = diff_stage(run, other).to_dict()
    if as_json:
        print_json(found)
    else:
        print_told(told(found))

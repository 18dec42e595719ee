"""The command `power`: is the next trial large enough?"""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import AsJson, Config, Seed, print_json, print_told


def power(
    pilot: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, or the result of `evaluate --out` of the base.",
            show_default=False,
            metavar="pilot",
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(help="The result of the other model.", metavar="[other]")
    ] = None,
    difference: Annotated[float, typer.Option(help="In pass@1, to be told from none.")] = 0.05,
    chance: Annotated[float, typer.Option("--power", help="Of telling it.")] = 0.8,
    seed: Seed = 0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """How many problems and answers tell a difference in pass@1 from none, by a pilot.

    Two models on the same problems, compared in pairs, two-sided at 5 %. The pilot needs at least
    two answers a problem.

    \b
    Examples:
      ssd-probe power runs/smollm2
      ssd-probe power base.json student.json --difference 0.02
    """
    from ssd_probe.commands.power import Pilot, power_stage
    from ssd_probe.views.power import told

    found = power_stage(Pilot.load(pilot, other), difference, chance, seed)
    if as_json:
        print_json(found)
    else:
        print_told(told(found))

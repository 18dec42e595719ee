"""The commands that write pages: view, report."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    probe: Annotated[Path, typer.Argument(help="Probe folder, of one model or of a pair.")],
    other: Annotated[
        Path | None, typer.Option(help="Probe of a second model, on the same texts.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; by default PROBE/view.html.")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Leading tokens stored a position.")] = 20,
    limit: Annotated[int | None, typer.Option(help="Only the first texts.")] = None,
) -> None:
    """Look at every token: one HTML file that needs no server and no network.

    Tokens are coloured by label, entropy, tail, kept mass, surprisal or change; each shows its
    leading tokens; temperature, top-k, top-p and min-p can be changed in the page.

    \b
    Examples:
      ssd-probe view probes/base
      ssd-probe view probes/base --other probes/student --out view.html
      ssd-probe view probes/pair --limit 50
    """
    from ssd_probe.commands.pictures.view import view_stage

    print(*view_stage(probe, other, out, ranks, limit), sep="\n")


def report(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, of `compare --out`, or of a probe.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; by default SOURCE/report.html.")
    ] = None,
    positions: Annotated[
        int, typer.Option(min=0, help="In its viewer, at most, but one whole text; 0: none.")
    ] = 10_000,
) -> None:
    """One page to hand around: what was run, whether it worked, what changed, what to distrust.

    A single HTML file with the figures, their numbers and a token viewer; no server, no network.

    \b
    Examples:
      ssd-probe report runs/demo
      ssd-probe report comparison --out report.html
      ssd-probe report probes/base
    """
    from ssd_probe.commands.reporting.stage import report_stage

    print(*report_stage(source, out, positions), sep="\n")

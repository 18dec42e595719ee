"""Commands that read what others made: compare, figures, toy."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.options import AsJson, Temperature, TopK, TopP


def compare(
    base: Annotated[Path | None, typer.Option(help="Probe folder of the base model.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="Of the tuned model, same texts.")] = None,
    pair: Annotated[Path | None, typer.Option(help="Or one folder of `probe --pair`.")] = None,
    temperature: Temperature = 1.6,
    top_k: TopK = 20,
    top_p: TopP = 0.8,
    as_json: AsJson = False,
) -> None:
    """What changed at locks and at forks, with bootstrap intervals over problems.

    \b
    Examples:
      ssd-probe compare --base probes/base --tuned probes/student
      ssd-probe compare --pair probes/pair
    """
    from ssd_probe.decoding import Decoding
    from ssd_probe.stages import compare_stage

    table, sentences = compare_stage(base, tuned, pair, Decoding(temperature, top_k, top_p))
    if as_json:
        print(json.dumps({"table": table.to_dict("records"), "verdicts": sentences}))
    else:
        print(table.to_string(index=False, float_format=lambda x: f"{x:.4f}"))
        print(*sentences, sep="\n")


def figures(
    run: Annotated[Path, typer.Argument(help="Run folder of `ssd-probe demo`.")],
) -> None:
    """Draw again every figure that a run has data for.

    \b
    Examples:
      ssd-probe figures runs/demo
    """
    from ssd_probe.story import draw_figures

    for path in draw_figures(run):
        print(path)


def toy(
    machine: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of another machine; see the README.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Draw Figures 12-14 into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Solve the paper's toy machine, or yours, exactly: base and student, each at its best T.

    \b
    Examples:
      ssd-probe toy
      ssd-probe toy --out figures
      ssd-probe toy --machine machine.yaml --json
    """
    from ssd_probe.analysis.toy import PAPER, describe, load_machine, solve

    chosen = PAPER if machine is None else load_machine(machine)
    solved = solve(chosen)
    drawn = []
    if out is not None:
        from ssd_probe.toy_figures import draw_toy

        drawn = draw_toy(chosen, solved, out)
    if as_json:
        print(json.dumps(solved))
    else:
        print(describe(chosen, solved), *drawn, sep="\n")

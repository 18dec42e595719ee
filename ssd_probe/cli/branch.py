"""The command `branch`: forks and locks by what becomes of programs with other tokens."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import AsJson, Config, Device, Model, Unsandboxed, flags_of, print_json
from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.decoding import Decoding


@flags_of(BranchConfig)
def branch(
    settings: BranchConfig,
    problems: Annotated[
        str,
        typer.Option(
            help="`humaneval`, `basics[:dev|test]`, `tiny:dev|test`, or a LiveCodeBench .jsonl."
        ),
    ],
    samples: Annotated[Path, typer.Option(help="JSON Lines file of `ssd-probe sample`.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an interrupted one is resumed.")],
    model: Model = "tiny",
    temperature: Annotated[float, typer.Option(help="T of the runs; 0 is greedy.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Top-k of the runs; 0 keeps all.")] = 20,
    top_p: Annotated[float, typer.Option(help="Top-p of the runs.")] = 0.8,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds a program.")] = 3.0,
    memory: Annotated[int, typer.Option(min=128, max=2**20, help="Megabytes a program.")] = 1024,
    unsandboxed: Unsandboxed = False,
    device: Device = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Force tokens of passing programs, go on, run the tests: which positions are forks?

    A lock is a position where only one token keeps the program; at a fork two or more do. Samples
    must be the model's own or have its token ids. Interrupted, the same command goes on;
    --positions and --per-token may be raised later.

    \b
    Examples:
      ssd-probe branch --problems tiny:test --samples samples.jsonl --out branch
      ssd-probe branch --model smollm2 --problems basics --samples s.jsonl --positions 600 --out b
    """
    decoding = Decoding(temperature, top_k, top_p)
    from ssd_probe.commands.branching.runs import Limits
    from ssd_probe.commands.branching.stage import branch_stage
    from ssd_probe.commands.branching.summary import summarised

    limits = Limits(timeout, memory, workers, unsandboxed)
    found = branch_stage(model, problems, samples, out, settings, decoding, limits, device=device)
    content, lines, files = summarised(found, out)
    if as_json:
        print_json(content)
    else:
        print(*lines, *files, sep="\n")

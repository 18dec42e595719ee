"""Commands that run model-written programs: evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import (
    AsJson,
    Config,
    Full,
    Scheduler,
    Unsandboxed,
    print_json,
    print_told,
)
from ssd_probe.errors import Failed


def evaluate(
    problems: Annotated[
        str,
        typer.Option(
            help="`humaneval`, `basics[:dev|test]`, `tiny:dev|test`, or a LiveCodeBench .jsonl."
        ),
    ],
    samples: Annotated[Path, typer.Option(help="JSONL: problem_id or task_id, and completion.")],
    out: Annotated[Path | None, typer.Option(help="Write the JSON result here; resumes.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Programs at a time, here.")] = 2,
    scheduler: Scheduler = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds a program.")] = 3.0,
    memory: Annotated[int, typer.Option(min=128, max=2**20, help="Megabytes a program.")] = 1024,
    k: Annotated[list[int] | None, typer.Option(help="pass@k to report; repeatable.")] = None,
    unsandboxed: Unsandboxed = False,
    full: Full = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Run sampled programs against hidden tests; pass@k with bootstrap intervals.

    Programs run in a box (bubblewrap): no network, none of your files, limits on time, memory and
    output. Expected values stay outside. With --out, a run that was interrupted goes on.

    \b
    Examples:
      ssd-probe evaluate --problems tiny:test --samples samples.jsonl
      ssd-probe evaluate --problems humaneval --samples he.jsonl --json
      ssd-probe evaluate --problems lcb.jsonl --samples s.jsonl --scheduler tcp://HOST:8786
    """
    from ssd_probe.commands.evaluate import evaluate_stage

    result, ended = evaluate_stage(
        problems,
        samples,
        k,
        out=out,
        workers=workers,
        scheduler=scheduler,
        seconds=timeout,
        megabytes=memory,
        unsandboxed=unsandboxed,
    )
    if as_json:
        print_json(result)
    else:
        from ssd_probe.views.evaluation import told

        print_told(told(result, ended, full))
    if any(row["verdict"] == "infra_error" for row in result["results"]):
        raise Failed("some programs could not be run (infra_error) and are not counted")

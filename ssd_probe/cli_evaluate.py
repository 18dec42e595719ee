"""Commands that run model-written programs: evaluate."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.options import AsJson, Config


def evaluate(
    problems: Annotated[str, typer.Option(help="`humaneval` or `tiny:dev|test`.")],
    samples: Annotated[Path, typer.Option(help="JSONL: problem_id or task_id, and completion.")],
    out: Annotated[Path | None, typer.Option(help="Also write the JSON result here.")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds a program.")] = 3.0,
    k: Annotated[list[int] | None, typer.Option(help="pass@k to report; repeatable.")] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Run sampled programs against hidden tests; pass@k with bootstrap intervals.

    Programs run in processes with limits on time, memory and files. That is not isolation: run
    programs of a model you do not trust only on a machine you can lose.

    \b
    Examples:
      ssd-probe evaluate --problems tiny:test --samples samples.jsonl
      ssd-probe evaluate --problems humaneval --samples he.jsonl --json
    """
    from ssd_probe.stages import evaluate_stage

    result = evaluate_stage(problems, samples, k, workers=workers, seconds=timeout)
    if out is not None:
        from ssd_probe.run import write_json

        write_json(out, result)
    if as_json:
        print(json.dumps(result))
    else:
        for row in result["pass_at_k"]:
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
            print(f"pass@{row['k']} {row['group']:<7} {row['estimate']:.3f} {interval}")
    if any(row["verdict"] == "infra_error" for row in result["results"]):
        raise RuntimeError("some programs could not be run (infra_error) and are not counted")

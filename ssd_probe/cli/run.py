"""The whole loop of self-distillation in one command: run, and its short name demo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssd_probe.cli.options import AsJson, Seed, Unsandboxed, print_json, print_told
from ssd_probe.errors import UserError


def run(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a preset: tiny, smollm2, llama-3.1-8b-instruct, qwen3-4b-instruct, "
            "qwen3-4b-thinking, qwen3-30b-instruct, qwen3-30b-thinking, gpt-oss-20b, released-4b."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an interrupted run is resumed.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Do nothing: print every command, and the tokens, memory and disk."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The small run that the file declares, else a tenth.")
    ] = False,
    scale: Annotated[
        float | None,
        typer.Option(help="Prompts, problems, samples, texts and steps times so much, up to 1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model than declared.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Other training prompts.")] = None,
    dev: Annotated[str | None, typer.Option(help="Other dev problems.")] = None,
    test: Annotated[str | None, typer.Option(help="Other test problems.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1)] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Models side by side, of one thread each.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="`hf` or `vllm` draws the answers, see `sample`.")
    ] = None,
    engine_arg: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for vLLM; repeatable.")
    ] = None,
    certificate: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of `doctor --engine ... --out`, of the base at one of its decodings, into the "
            "records; repeatable."
        ),
    ] = None,
    unsandboxed: Unsandboxed = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop as one file declares it: sample, train, choose, test, probe, draw.

    A paper's preset is its experiment as published; what a flag or this machine changes is printed
    and recorded. The keys of a file: docs/guide.md.

    \b
    Examples:
      ssd-probe run tiny --quick --out runs/tiny
      ssd-probe run smollm2 --quick --out runs/smollm2
      ssd-probe run loop.yaml --out runs/mine
      ssd-probe run qwen3-4b-instruct --engine vllm --dry-run
      ssd-probe run released-4b --out runs/released
      ssd-probe run qwen3-4b-instruct --scale 0.01 --prompts p.jsonl --test lcb.jsonl --out runs/q
    """
    changes: dict[str, Any] = {
        "model": model,
        "prompts": prompts,
        "dev": None if dev is None else {"problems": dev},
        "test": None if test is None else {"problems": test},
        "seed": seed,
        "processes": processes,
        "engine": engine,
        "engine_args": engine_arg or None,
        "certificates": list(map(str, certificate or [])) or None,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    if engine not in (None, "hf"):
        given.setdefault("processes", 1)  # the engine has all of the machine
    if out is None and not dry_run:
        raise UserError("Missing option '--out': the run's folder (or --dry-run)")
    folder = out or Path("runs") / Path(config).stem
    from ssd_probe.commands.loop.presets import choose, released

    if pairs := released(config):
        if given or quick or scale is not None:
            raise UserError(f"{config}: published pairs are only probed; it takes --out alone")
        _run_pairs(pairs, config, folder, dry_run, as_json)
        return
    chosen = choose(config, quick=quick, scale=scale, changes=given)
    if dry_run:
        from ssd_probe.commands.loop.dry import dry_run as lines_of

        _tell_lines(lines_of(chosen, folder), as_json)
        return
    summary = _run(chosen, folder, as_json, unsandboxed)
    if as_json:
        print_json(summary)


def _tell_lines(lines: list[str], as_json: bool) -> None:
    if as_json:
        commands = [line for line in lines if line and not line.startswith("#")]
        print_json({"commands": commands, "lines": lines})
    else:
        print(*lines, sep="\n")


def _run_pairs(pairs: Any, name: str, out: Path, dry: bool, as_json: bool) -> None:
    from ssd_probe.commands.loop.released import released_lines, released_stage

    if dry:
        _tell_lines(released_lines(pairs, name, out), as_json)
        return
    summary = released_stage(pairs, name, out, (lambda text: None) if as_json else print)
    if as_json:
        print_json(summary)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted one is resumed.")] = Path(
        "runs/demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute or two; a shorter training.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Walk the bundled checkpoint through simple self-distillation, and show what changed.

    Short for `run tiny`.

    \b
    Examples:
      ssd-probe demo
      ssd-probe demo --quick --out runs/quick
    """
    from ssd_probe.commands.loop.demo import demo_config

    summary = _run(demo_config(quick, seed=seed), out, as_json)
    if as_json:
        print_json(summary)


def _run(chosen: Any, out: Path, quiet: bool, unsandboxed: bool = False) -> dict[str, Any]:
    from ssd_probe.commands.loop.run import run_stage

    say = (lambda text: None) if quiet else print_told
    return run_stage(chosen, out, say, unsandboxed=unsandboxed)

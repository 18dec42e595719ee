"""`ssd-probe doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import AsJson, Model, TopK, TopP, print_json
from ssd_probe.cli.sample import AllowText, EngineArgs, Served, Url
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError


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
    temperature: Annotated[float, typer.Option(help="T > 0.")] = PAPER_TRAIN.temperature,
    top_k: TopK = PAPER_TRAIN.top_k,
    top_p: TopP = PAPER_TRAIN.top_p,
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

    With --engine: whether that engine draws what the decoding says, in that order.

    \b
    Examples:
      ssd-probe doctor
      ssd-probe doctor --json
      ssd-probe doctor --engine hf --temperature 1.6 --top-k 20 --top-p 0.8 --out certificate.json
      ssd-probe doctor --engine server --url http://localhost:8000 --model ./base
    """
    if engine is None:
        from ssd_probe.commands.doctor import doctor_stage

        found = doctor_stage()
        if as_json:
            print_json(found)
            return
        for name, line in found.items():
            print(f"{'ok' if line['ok'] else '--'}  {name:<20} {line['detail']}")
        return
    decoding = Decoding(temperature, top_k, top_p)
    if decoding.is_greedy:
        raise UserError("temperature = 0: greedy has no frequencies to look at")
    from ssd_probe.commands.conformance import conformance_lines, conformance_stage
    from ssd_probe.engines.choice import Choice
    from ssd_probe.models.identity import Checkpoint

    choice = Choice(engine, tuple(url or ()), served_model, allow_text, tuple(engine_arg or ()))
    certificate = conformance_stage(
        Checkpoint(model), decoding, choice, draws=draws, rounding=rounding, out=out
    )
    if as_json:
        print_json(certificate)
    else:
        print(*conformance_lines(certificate), sep="\n")

"""`ssd-probe sample` and `export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssd_probe.cli.options import (
    AsJson,
    Config,
    Device,
    DrawnTemperature,
    DrawnTopK,
    DrawnTopP,
    Model,
    Policy,
    Style,
    drawn_by,
    flags_of,
    print_json,
)
from ssd_probe.core.config import SampleConfig
from ssd_probe.errors import UserError

Engine = Annotated[
    str,
    typer.Option(
        help="`hf` (transformers), `vllm` (in the environment that SSD_PROBE_VLLM names), or "
        "`server` (vLLM, SGLang, llama.cpp; its key in SSD_PROBE_API_KEY)."
    ),
]
Url = Annotated[
    list[str] | None,
    typer.Option(help="A server's address; repeatable: the work is shared out."),
]
Served = Annotated[
    str | None, typer.Option(help="The model's name at the server, if it serves several.")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64.")]
Attn = Annotated[str | None, typer.Option(help="eager, sdpa, flash_attention_2 ...")]
LoadIn = Annotated[str | None, typer.Option(help="`4bit` or `8bit` weights, by bitsandbytes.")]
AllowText = Annotated[
    bool,
    typer.Option(
        "--allow-text",
        help="Take a server that gives text and no token ids. Tokenised again, which changes "
        "numbers. Recorded.",
    ),
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option("--engine-arg", help="NAME=VALUE for vLLM, as tensor_parallel_size=2; repeatable"),
]


@flags_of(SampleConfig)
def sample(
    settings: SampleConfig,
    out: Annotated[Path, typer.Option(help="JSON Lines file to write; with --shard a folder.")],
    prompts: Annotated[
        str | None,
        typer.Option(
            help="JSONL file, `humaneval`, `basics[:dev|test]`, `stdlib[:ssd|dev|test]`, or "
            "`tiny:ssd|dev|test`."
        ),
    ] = None,
    model: Model = "tiny",
    style: Style = "auto",
    temperature: DrawnTemperature = None,
    top_k: DrawnTopK = None,
    top_p: DrawnTopP = None,
    policy: Policy = None,
    limit: Annotated[int | None, typer.Option(help="Only the first prompts.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    attn: Attn = None,
    load_in: LoadIn = None,
    engine: Engine = "hf",
    url: Url = None,
    served_model: Served = None,
    allow_text: AllowText = False,
    engine_arg: EngineArgs = None,
    stall: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=31_536_000,
            help="Seconds without an answer of any server, after which it ends; default: 1800, "
            "and 0.1 for each token that an answer may have.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: this job's share; n jobs fill one folder, --out.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Of `doctor --engine ... --out`, into the record.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Draw nothing: say what is missing in --out.")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Sample solutions and keep their token ids (step 1 of SSD).

    \b
    Examples:
      ssd-probe sample --prompts tiny:ssd --limit 100 --out samples.jsonl
      ssd-probe sample --model Qwen/Qwen3-4B-Instruct-2507 --prompts prompts.jsonl --out s.jsonl
      ssd-probe sample --model ./my-model --prompts humaneval --max-new-tokens 256 --out he.jsonl
      ssd-probe sample --model ./base --prompts stdlib:ssd --style raw --limit 50 --out s.jsonl
      ssd-probe sample --prompts tiny:dev --policy "min-p(0.1)" --temperature 1.3 --out m.jsonl
      ssd-probe sample --model ./base --dtype bfloat16 --device auto --prompts p.jsonl --out s.jsonl
      ssd-probe sample --model ./base --engine server --url http://gpu1:8000 --url http://gpu2:8000
      --prompts p.jsonl --out s.jsonl
      ssd-probe sample --model ./base --prompts p.jsonl --shard 2/8 --out samples
      ssd-probe sample --status --out samples
    """
    if status:
        _say_status(out, as_json)
        return
    if prompts is None:
        raise UserError("Missing option '--prompts'")
    drawn = drawn_by(policy, temperature, top_k, top_p)  # refused before the slow imports
    from ssd_probe.commands.sample import sample_stage
    from ssd_probe.commands.sampling.shards import Shard
    from ssd_probe.engines.choice import Choice
    from ssd_probe.models.identity import Checkpoint, Loading

    choice = Choice(
        engine, tuple(url or ()), served_model, allow_text, tuple(engine_arg or ()), stall
    )
    about: dict[str, Any] = {"limit": limit, "style": style, "choice": choice}
    about |= {"certificate": certificate, "shard": Shard.of(shard) if shard else None}
    checkpoint = Checkpoint(model, device, Loading(dtype, attn, load_in))
    rows = sample_stage(checkpoint, prompts, drawn, out, settings, **about)
    finished = sum(row["finished"] for row in rows)
    if as_json:
        print_json({"samples": len(rows), "finished": finished, "out": str(out)})
        return
    print(f"{len(rows)} samples in {out}, {finished} of them finished before --max-new-tokens")


def _say_status(out: Path, as_json: bool) -> None:
    from ssd_probe.commands.sampling.shards import status, status_lines

    found = status(out)
    if as_json:
        print_json(found)
    else:
        print(*status_lines(out, found), sep="\n")


def export(
    samples: Annotated[Path, typer.Argument(help="JSON Lines file of `ssd-probe sample`.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file to write.")],
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="`messages` (text: another trainer tokenises it) or `ids` (input_ids and labels, "
            "exactly what was drawn).",
        ),
    ] = "ids",
    finished: Annotated[
        bool, typer.Option("--finished", help="Leave out answers that were cut by their length.")
    ] = False,
) -> None:
    """Hand samples to another trainer, such as TRL's SFTTrainer.

    \b
    Examples:
      ssd-probe export samples.jsonl --out ids.jsonl
      ssd-probe export samples.jsonl --as messages --finished --out chats.jsonl
    """
    from ssd_probe.commands.sampling.export import export_stage

    made, left = export_stage(samples, form, out, finished=finished)
    print(f"{made} samples in {out}" + (f", {left} unfinished ones left out" if finished else ""))

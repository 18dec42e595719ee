"""Commands that look beyond this tool's own runs: diff, import."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import (
    AsJson,
    RuleTemperature,
    RuleTopK,
    RuleTopP,
    print_json,
    print_told,
)
from ssd_probe.decoding import LABELLING, Decoding


def diff(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, samples, a checkpoint of `train`, a result of `evaluate`.",
            show_default=False,
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(
            help="Another of these; or `paper`, `paper:MODEL`, `ml-ssd`.", show_default=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """What differs between two runs, or a run and a published recipe, the weightiest first.

    `paper` is the preset of the paper's model that the run's is, else of qwen3-4b-instruct;
    `ml-ssd` is Apple's published repository.

    \b
    Examples:
      ssd-probe diff runs/demo paper
      ssd-probe diff runs/mine ml-ssd
      ssd-probe diff runs/mine runs/theirs --json
    """
    from ssd_probe.commands.diffing.stage import diff_stage
    from ssd_probe.views.diff import told

    found = diff_stage(run, other).to_dict()
    if as_json:
        print_json(found)
    else:
        print_told(told(found))


def import_answers(
    source: Annotated[
        Path,
        typer.Argument(
            help="JSON or JSON Lines of a server's answers, or inspect's log.", show_default=False
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the table into this folder.")] = None,
    vocab_size: Annotated[
        int | None, typer.Option(min=1, help="Of the model; bounds entropies from above.")
    ] = None,
    rule_temperature: RuleTemperature = LABELLING.temperature,
    rule_top_k: RuleTopK = LABELLING.top_k,
    rule_top_p: RuleTopP = LABELLING.top_p,
    as_json: AsJson = False,
) -> None:
    """Read log-probabilities that a server wrote: numbers where they are known, else intervals.

    Chat completions and completions of OpenAI, vLLM and llama.cpp with their leading tokens, batch
    output, inspect's .json and .eval. They must be the model's own, at T=1 and untruncated.

    \b
    Examples:
      ssd-probe import answers.jsonl --vocab-size 151936
      ssd-probe import log.eval --out imported/qwen --json
    """
    from ssd_probe.commands.importing import import_stage
    from ssd_probe.views.importing import told

    labelling = Decoding(rule_temperature, rule_top_k, rule_top_p)
    found = import_stage(source, out, vocab_size, labelling)._asdict()
    if as_json:
        print_json(found)
    else:
        print_told(told(found, str(out) if out else None))

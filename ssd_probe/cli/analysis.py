"""Commands that read what others made: compare, diff, figures, import, toy."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import (
    AsJson,
    RuleTemperature,
    RuleTopK,
    RuleTopP,
    Scheduler,
    Temperature,
    TopK,
    TopP,
    Workers,
    print_json,
    print_told,
)
from ssd_probe.decoding import LABELLING, PAPER_TRAIN, Decoding


def compare(
    base: Annotated[Path | None, typer.Option(help="Probe folder of the base model.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="Of the tuned model, same texts.")] = None,
    pair: Annotated[Path | None, typer.Option(help="Or one folder of `probe --pair`.")] = None,
    temperature: Temperature = PAPER_TRAIN.temperature,
    top_k: TopK = PAPER_TRAIN.top_k,
    top_p: TopP = PAPER_TRAIN.top_p,
    rule: Annotated[
        str, typer.Option(help="Label positions by `support`, `entropy` or `quantile`.")
    ] = "support",
    rule_temperature: RuleTemperature = LABELLING.temperature,
    rule_top_k: RuleTopK = LABELLING.top_k,
    rule_top_p: RuleTopP = LABELLING.top_p,
    out: Annotated[
        Path | None, typer.Option(help="Write figures, and tables as Markdown, LaTeX, CSV here.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every statistic at every kind of position.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """What changed at locks and at forks, with bootstrap intervals over problems.

    Temperature, top-k and top-p are those of the tuned model's training samples. Positions are
    locks, forks, open (many tokens, none of them a head) or neither.

    \b
    Examples:
      ssd-probe compare --base probes/base --tuned probes/student
      ssd-probe compare --pair probes/pair --out comparison
    """
    decoding = Decoding(temperature, top_k, top_p)
    from ssd_probe.commands.compare import compare_stage, content_of

    labelling = Decoding(rule_temperature, rule_top_k, rule_top_p)
    made = compare_stage(base, tuned, pair, decoding, rule, out, labelling, scheduler, workers)
    if as_json:
        print_json(content_of(made.found))
        return
    from ssd_probe.views.comparison import told

    print_told(told(made.found.comparison, made.sentences, full))
    print(*made.files, sep="\n", end="\n" * bool(made.files))


def figures(
    run: Annotated[Path | None, typer.Argument(help="Run folder of `ssd-probe demo`.")] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="Table of `ssd-probe sweep`, or of your own evaluator.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The paper's own numbers; with --sweep yours too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to draw into; by default RUN/figures.")
    ] = None,
) -> None:
    """Draw every figure that a run or a sweep has data for, and say what is missing for the rest.

    \b
    Examples:
      ssd-probe figures runs/demo
      ssd-probe figures --sweep runs/sweep/sweep.csv --out figures
      ssd-probe figures --published --out figures
    """
    from ssd_probe.commands.pictures.figures import figures_stage

    print(*figures_stage(run, sweep, published, out), sep="\n")


def toy(
    machine: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of another machine; see docs/guide.md.")
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
    from ssd_probe.commands.toy import toy_stage

    solved, lines = toy_stage(machine, out)
    if as_json:
        print_json(solved)
    else:
        print(*lines, sep="\n")


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
    from ssd_probe.views.outside import differences

    found = diff_stage(run, other).to_dict()
    if as_json:
        print_json(found)
    else:
        print_told(differences(found))


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

    Chat completions and completions of OpenAI, vLLM and llama.cpp with their leading tokens, given
    texts (vLLM's prompt_logprobs), batch output, inspect's .json and .eval. They must be the
    model's own, at T=1 and untruncated.

    \b
    Examples:
      ssd-probe import answers.jsonl --vocab-size 151936
      ssd-probe import log.eval --out imported/qwen --json
    """
    from ssd_probe.commands.importing import import_stage
    from ssd_probe.views.outside import imported

    labelling = Decoding(rule_temperature, rule_top_k, rule_top_p)
    found = import_stage(source, out, vocab_size, labelling)._asdict()
    if as_json:
        print_json(found)
    else:
        print_told(imported(found, str(out) if out else None))

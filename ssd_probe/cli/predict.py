"""The command `predict`: what self-distillation can do, from the base's probe alone."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import (
    AsJson,
    Config,
    Full,
    RuleTemperature,
    RuleTopK,
    RuleTopP,
    Seed,
    print_json,
    print_told,
)
from ssd_probe.decoding import LABELLING, PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError

Numbers = Annotated[list[str], typer.Option(help="Numbers, by commas or the flag again.")]


def predict(
    probe: Annotated[Path, typer.Option(help="Probe folder of the base model.")],
    t_train: Numbers = ["1.0,1.2,1.4,1.6,1.8,2.0"],  # noqa: B006 typer copies it
    top_k: Numbers = [str(PAPER_TRAIN.top_k)],  # noqa: B006
    top_p: Numbers = [str(PAPER_TRAIN.top_p)],  # noqa: B006
    t_eval: Numbers = ["0.4,0.6,0.8,1.0,1.2,1.4,1.6,1.8,2.0"],  # noqa: B006
    eval_top_k: Numbers = [str(PAPER_TRAIN.top_k)],  # noqa: B006
    eval_top_p: Numbers = [str(PAPER_TRAIN.top_p)],  # noqa: B006
    student: Annotated[
        Path | None,
        typer.Option(help="Probe of a trained student, same texts: state the prediction's error."),
    ] = None,
    policy: Annotated[
        list[str],
        typer.Option(help="A decode-only rival to set beside, `min-p(0.1)` ...; again for more."),
    ] = [],  # noqa: B006
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Set beside the rivals of docs/method.md.")
    ] = False,
    positions: Annotated[int, typer.Option(min=0, help="Drawn at random; 0: all.")] = 200_000,
    lock_mass: Annotated[float, typer.Option(help="What a precise lock's top token has.")] = 0.99,
    lock_share: Annotated[float, typer.Option(help="Share of locks to be precise.")] = 0.99,
    fork_branching: Annotated[float, typer.Option(help="Branching of an open fork.")] = 1.5,
    fork_share: Annotated[float, typer.Option(help="Share of forks to be open.")] = 0.5,
    fork_tokens: Annotated[int, typer.Option(help="r_F of eq. 40.")] = 2,
    lock_tokens: Annotated[int, typer.Option(help="r_L of eq. 40.")] = 1,
    rule_temperature: RuleTemperature = LABELLING.temperature,
    rule_top_k: RuleTopK = LABELLING.top_k,
    rule_top_p: RuleTopP = LABELLING.top_p,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Draw the map into this folder.")] = None,
    full: Full = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """What training at each setting could do, from the base's probe: the ideal-fit bound.

    Every T_train with every --top-k and --top-p is a student; each is decoded at every T_eval with
    every --eval-top-k and --eval-top-p, beside the base. --policy and --rivals set beside them what
    the base does untrained by other rules (as published), where that costs its locks the same.

    \b
    Examples:
      ssd-probe predict --probe probes/base
      ssd-probe predict --probe probes/base --t-train 1.2,1.6 --top-p 0.8,0.95 --out figures
      ssd-probe predict --probe probes/base --student probes/student --t-train 1.6 --out figures
      ssd-probe predict --probe probes/base --t-train 1.6 --rivals --policy "min-p(0.2)"
    """
    trains = _settings(("--t-train", t_train), ("--top-k", top_k), ("--top-p", top_p))
    evals = _settings(
        ("--t-eval", t_eval), ("--eval-top-k", eval_top_k), ("--eval-top-p", eval_top_p)
    )
    from ssd_probe.commands.predict import Limits, Question, SupportRule, draw_stage, predict_stage

    limits = Limits(lock_mass, lock_share, fork_branching, fork_share, fork_tokens, lock_tokens)
    rule = SupportRule(Decoding(rule_temperature, rule_top_k, rule_top_p))
    question = Question(trains, evals, limits, rule, positions, seed, tuple(policy), rivals)
    answer = predict_stage(probe, student, question)
    drawn = [] if out is None else draw_stage(answer, out)
    if as_json:
        print_json(answer.to_dict())
    else:
        print_told(answer.told(full))
        print(*drawn, sep="\n", end="\n" * bool(drawn))


def _settings(*flags: tuple[str, list[str]]) -> list[Decoding]:
    """Every combination of the numbers of T, top-k and top-p, each once."""
    from ssd_probe.decoding import Decoding

    temperatures, top_ks, top_ps = (_numbers(*flag) for flag in flags)
    if not all(k.is_integer() for k in top_ks):
        raise UserError(f"{flags[1][0]}: must be whole numbers")
    grid = product(map(int, top_ks), top_ps, temperatures)
    return list(dict.fromkeys(Decoding(t, k, p) for k, p, t in grid))


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        return [float(part) for text in texts for part in str(text).split(",")]
    except ValueError:
        raise UserError(f"{flag} {','.join(map(str, texts))}: must be numbers") from None

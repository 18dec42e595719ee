"""Options that several commands share, and `--config`."""

import inspect
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import kind_of, read_yaml
from ssd_probe.files.writing import strict_json

if TYPE_CHECKING:
    from ssd_probe.views.terminal import Told


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """`--config run.yaml`: its keys are the command's flags; flags on the command line win."""
    if path is None:
        return None
    values = read_yaml(path)
    if values is None:
        return path
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `flag: value` lines, found {kind_of(values)}")
    flags = _flags(context)
    settings: dict[str, Any] = {}
    for key, value in values.items():
        parameter = flags.get(str(key).replace("-", "_"))
        if parameter is None:
            known = ", ".join(sorted(flags))
            raise UserError(f"{path}: unknown key {str(key)!r}; known: {known}")
        if value is not None:
            settings[parameter.name] = _as_typed(parameter, value, f"{path}: {key}")
    context.default_map = settings
    return path


def _flags(context: typer.Context) -> dict[str, Any]:
    """The command's parameters by the names of their flags, `top_k` for --top-k."""
    found = {}
    for parameter in context.command.params:
        for name in (parameter.name, *(flag.lstrip("-") for flag in parameter.opts)):
            found[str(name).replace("-", "_")] = parameter
    return {name: found[name] for name in found.keys() - {"config", "help"}}


def _as_typed(parameter: Any, value: Any, where: str) -> Any:
    """The value as it would be typed behind the flag: text, which is then read as that is."""
    values = value if isinstance(value, list) and parameter.multiple else [value]
    flag = getattr(parameter, "is_flag", False)
    for each in values:
        if not isinstance(each, str | int | float) or isinstance(each, bool) != flag:
            wanted = "true or false" if flag else "one number or text (in quotes if need be)"
            many = ", or a list of them" if parameter.multiple else ""
            raise UserError(f"{where}: {each!r:.80} must be {wanted}{many}")
    typed = [each if flag else str(each) for each in values]
    return typed if parameter.multiple else typed[0]


def print_json(content: object) -> None:
    """One line of strict JSON on stdout: null where a number is NaN or infinite."""
    print(strict_json(content))


def print_told(told: "str | Told") -> None:
    """What a command says, with colours where stdout is a terminal and NO_COLOR is not set."""
    if isinstance(told, str):
        print(told)
        return
    looks: dict[str, dict[str, Any]] = {"sentence": {"bold": True}, "doubt": {"fg": "yellow"}}

    def paint(line: str, kind: str) -> str:
        return typer.style(line, **looks[kind]) if kind in looks else line

    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    typer.echo(told.text(paint), color=False if plain else None)


Config = Annotated[
    Path | None,
    typer.Option(callback=_load_config, is_eager=True, help="YAML file with values of the flags."),
]
Model = Annotated[
    str,
    typer.Option(
        help="`tiny` (bundled), `smollm2` (brought by pip), a checkpoint folder, a .gguf file, or "
        "a hub model id."
    ),
]
Temperature = Annotated[float, typer.Option(help="T >= 0; 0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Then keep the smallest prefix with this mass.")]
Policy = Annotated[
    str | None,
    typer.Option(
        help="A rival of training, in place of the plain decoding: `two-stage`, `min-p(0.1)` ..., "
        "see docs/guide.md."
    ),
]
DrawnTemperature = Annotated[
    float | None,
    typer.Option(help=f"T >= 0; 0 is greedy; default: {PAPER_TRAIN.temperature}, 1 of a policy."),
]
DrawnTopK = Annotated[
    int | None,
    typer.Option(
        help="Keep the k most likely tokens; 0 keeps all; "
        f"default: {PAPER_TRAIN.top_k}, 0 of a policy."
    ),
]
DrawnTopP = Annotated[
    float | None,
    typer.Option(
        help="Then keep the smallest prefix with this mass; "
        f"default: {PAPER_TRAIN.top_p}, 1 of a policy."
    ),
]
RuleTemperature = Annotated[float, typer.Option(help="Of the support rule that labels.")]
RuleTopK = Annotated[int, typer.Option(help="Of the rule.")]
RuleTopP = Annotated[float, typer.Option(help="Of the rule.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1)]  # what numpy takes
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: cuda if any.")]
Style = Annotated[
    str,
    typer.Option(
        help="A benchmark's prompts as `chat` (an instruction, in the model's template), as `raw` "
        "text to continue, or `auto`: chat if the model ends the turns of a template."
    ),
]
Unsandboxed = Annotated[
    bool,
    typer.Option(
        "--i-accept-unsandboxed-execution",
        help="Where nothing isolates: run programs under limits only. Recorded.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes; default: one a core, for large probes.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Of a Dask cluster that computes instead: tcp://HOST:8786.")
]
Full = Annotated[bool, typer.Option("--full", help="Every table, not only what comes first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def flags_of(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every field of a dataclass that has a help text.

    The command gets what was given as `settings`, an object of that class: defaults and limits are
    stated there and nowhere else.
    """
    flags = [field for field in fields(config) if "help" in field.metadata]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            chosen = {flag.name: values.pop(flag.name) for flag in flags}
            command(settings=config(**chosen), **values)

        own = inspect.signature(command)
        kept = [each for name, each in own.parameters.items() if name != "settings"]
        added = [
            inspect.Parameter(
                flag.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=flag.default,
                annotation=Annotated[flag.type, typer.Option(help=flag.metadata["help"])],
            )
            for flag in flags
        ]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in kept] + added
        run.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in every}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def drawn_by(
    policy: str | None, temperature: float | None, top_k: int | None, top_p: float | None
) -> Any:
    """The `Policy` of --policy, --temperature, --top-k and --top-p, each with its default."""
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given = {name: value for name, value in given.items() if value is not None}
    decoding = replace(PAPER_TRAIN if policy is None else Decoding(), **given)
    if policy is None:
        return decoding
    from ssd_probe.policies.parsing import policy_of

    return policy_of(policy, decoding)

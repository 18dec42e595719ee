"""Options that several commands share, and `--config`."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.errors import UserError


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """`--config run.yaml`: its keys are the command's flags; flags on the command line win."""
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    known = {parameter.name for parameter in context.command.params} - {"config"}
    settings = {str(key).replace("-", "_"): value for key, value in dict(values).items()}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    context.default_map = settings
    return path


Config = Annotated[
    Path | None,
    typer.Option(callback=_load_config, is_eager=True, help="YAML file with values of the flags."),
]
Model = Annotated[
    str, typer.Option(help="`tiny` (bundled), a checkpoint folder, or a hub model id.")
]
Temperature = Annotated[float, typer.Option(help="T >= 0; 0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Then keep the smallest prefix with this mass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: cuda if any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]

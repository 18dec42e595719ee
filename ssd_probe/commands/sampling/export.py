"""`ssd-probe export`: samples in the forms that other trainers read."""

from collections.abc import Callable
from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.files.reading import numbered_rows
from ssd_probe.files.writing import write_jsonl


def as_messages(row: dict, where: str) -> dict:
    """The conversation with its answer; of a raw sample `prompt` and `completion`. Text alone."""
    answer = row.get("completion")
    if not isinstance(answer, str):
        raise UserError(f"{where}: no `completion` text; make samples with `ssd-probe sample`")
    if isinstance(row.get("messages"), list):
        return {"messages": [*row["messages"], {"role": "assistant", "content": answer}]}
    if isinstance(row.get("prompt"), str):
        return {"prompt": row["prompt"], "completion": answer}
    raise UserError(f"{where}: neither `messages` nor a `prompt`")


def as_ids(row: dict, where: str) -> dict:
    """`input_ids` and `labels`, what `train` trains on: the prompt's labels are -100."""
    from ssd_probe.core.training.batches import example

    if not all(isinstance(row.get(key), list) for key in ("prompt_ids", "completion_ids")):
        raise UserError(f"{where}: no token ids; make samples with `ssd-probe sample`")
    made = example(row)
    return {key: made[key] for key in ("input_ids", "labels")}


FORMS: dict[str, Callable[[dict, str], dict]] = {"messages": as_messages, "ids": as_ids}


def export_stage(samples: Path, form: str, out: Path, *, finished: bool = False) -> tuple[int, int]:
    """Write `out`, JSON Lines; how many samples are in it, and how many `finished` left out.

    Empty answers stay out of both counts: there is nothing to learn from them.
    """
    if form not in FORMS:
        raise UserError(f"--as {form}: must be one of {', '.join(FORMS)}")
    if out.exists() and out.samefile(samples):
        raise UserError(f"{out}: is the file of the samples; choose another --out")
    made, left = [], 0
    for number, row in numbered_rows(samples):
        if finished and row.get("finished") is False:
            left += 1
        elif row.get("completion_ids") != [] and row.get("completion") != "":
            made.append(FORMS[form](row, f"{samples}:{number}"))
    if not made:
        raise UserError(f"{samples}: nothing to export; {left} samples are unfinished")
    write_jsonl(out, made)
    return len(made), left

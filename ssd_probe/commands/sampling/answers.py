"""What a model's answers are like: how long, how many were cut, how many go round in a loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_probe.files.reading import read_jsonl

ROUNDS = 3  # of the same tokens at an answer's end: it goes round in a loop
LOOP_TOKENS = 24  # that these rounds have at least: shorter repeats are of tables and of dashes


def answer_lengths(samples: Path) -> dict[str, Any]:
    """Of a file of samples: `answers`, `tokens` (mean), `cut` by their length, `looping` of these.

    Tokens are an answer's own, its end token among them. Answers without token ids count for none:
    `tokens` is NaN where no answer has any.
    """
    rows = read_jsonl(samples)
    lengths = [len(row["completion_ids"]) for row in rows if "completion_ids" in row]
    cut = [row for row in rows if row.get("finished") is False]
    return {
        "answers": len(rows),
        "tokens": sum(lengths) / len(lengths) if lengths else float("nan"),
        "cut": len(cut),
        "looping": sum(loops(row.get("completion_ids", ())) for row in cut),
    }


def loops(ids: Sequence[int]) -> bool:
    """Whether the last tokens are `ROUNDS` times the same, over `LOOP_TOKENS` tokens or more.

    The period is any up to a third of the answer, so that loops of whole paragraphs are found; a
    last round that was cut is no matter, as any point of the loop may be its end.
    """
    for period in range(1, len(ids) // ROUNDS + 1):
        span = max(ROUNDS * period, LOOP_TOKENS)
        tail = ids[-span:]
        if len(tail) == span and tail[period:] == tail[:-period]:
            return True
    return False

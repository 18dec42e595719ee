"""The table of imported log-probabilities: what is exact, and intervals for what is not.

One row a position, as a probe's, in one file: `sample_id, problem_id, segment` (`prompt` or
`completion`), `position` (from 0 in each, that of a prompt's second token: the first has no
log-probability), `token, token_id` (null where the file names no ids), `logprob` and `rank` (null
where it is not told: `rank` is then above K), `top_tokens`, `top_ids` (null likewise),
`top_logprobs` [K], and `<name>_low, <name>_high` of `tail_mass` (beyond rank K), `entropy`,
`varentropy`; a high end is null where nothing bounds it. What is told of it (`import_stage`) adds
`label` and `kept_mass`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_json
from ssd_probe.probing.foreign.bounds import Bounds, bounds
from ssd_probe.probing.foreign.formats import Source
from ssd_probe.probing.foreign.tokens import Position
from ssd_probe.probing.table import IMPORTED, write_table

RECORD, TABLE = "probe.json", "imported.parquet"
INTERVALS = {"tail_mass": "tail", "entropy": "entropy", "varentropy": "varentropy"}
SLACK = 1e-4  # by which probabilities may add up to more than 1


def imported(source: Source, vocabulary: int | None = None) -> tuple[pa.Table, Bounds]:
    """The rows of a source, K being the fewest leading tokens that a position has.

    vocabulary: V, without which entropies have no upper end. Raises UserError for positions without
    leading tokens, probabilities that add up to more than 1, and V below K.
    """
    places = [(a, i, p) for a in source.answers for i, p in enumerate(a.positions)]
    positions = [position for _, _, position in places]
    ranks = min(len(position.leading) for position in positions)
    if not ranks:
        answer, i, _ = next(place for place in places if not place[2].leading)
        raise UserError(
            f"{answer.sample_id}: position {i} has no leading tokens; ask the server for "
            "top_logprobs (logprobs=K of completions, prompt_logprobs=K of vLLM, n_probs of "
            "llama.cpp)"
        )
    if vocabulary is not None and vocabulary < ranks:
        raise UserError(f"vocab-size = {vocabulary}: fewer than the {ranks} tokens of a position")
    log_p = np.array([[token.logprob for token in p.leading[:ranks]] for p in positions])
    _require_probabilities(log_p, places)
    lacking = np.array([position.may_lack for position in positions])
    found = bounds(log_p, source.decimals, vocabulary, lacking)
    columns: dict[str, Any] = {
        "sample_id": [answer.sample_id for answer, _, _ in places],
        "problem_id": [answer.problem_id for answer, _, _ in places],
        "segment": [answer.segment for answer, _, _ in places],
        "position": pa.array([i for _, i, _ in places], pa.int32()),
        "token": [position.token.text for position in positions],
        "token_id": pa.array([position.token.id for position in positions], pa.int32()),
        "logprob": pa.array([position.token.logprob for position in positions], pa.float64()),
        "rank": pa.array([_rank(position, ranks) for position in positions], pa.int32()),
        "top_tokens": [[token.text for token in p.leading[:ranks]] for p in positions],
        "top_ids": pa.array(
            [_ids(position, ranks) for position in positions], pa.list_(pa.int32())
        ),
        "top_logprobs": list(log_p),
    }
    for name, field in INTERVALS.items():
        for end, values in zip(("low", "high"), getattr(found, field), strict=True):
            columns[f"{name}_{end}"] = pa.array(values, pa.float64(), from_pandas=True)
    return pa.table(columns), found


def store(table: pa.Table, out: Path, about: dict[str, Any]) -> None:
    """Into a folder of its own. Raises UserError where there is something already."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out}: is there already; use another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    write_table(table, out / TABLE)
    ranks = len(table["top_tokens"][0])
    settings = {"schema": IMPORTED, "top_k": ranks, "pair": None}
    write_json(out / RECORD, {"settings": settings, "rows": len(table), "parts": 0, **about})


def _require_probabilities(log_p: np.ndarray, places: Sequence[tuple]) -> None:
    wrong = np.flatnonzero((np.exp(log_p).sum(1) > 1 + SLACK) | (log_p > SLACK).any(1))
    if len(wrong):
        answer, i, _ = places[wrong[0]]
        raise UserError(
            f"{answer.sample_id}: position {i}: the leading probabilities add up to "
            f"{np.exp(log_p[wrong[0]]).sum():.4g}; not log-probabilities of one model at T=1"
        )


def _rank(position: Position, ranks: int) -> int | None:
    """From 1; of equal ones the first. Beyond the K the server's, or None."""
    own = position.token
    for number, token in enumerate(position.leading[:ranks], 1):
        if (token.id, token.text) == (own.id, own.text) and token.logprob == own.logprob:
            return number
    return own.rank


def _ids(position: Position, ranks: int) -> list[int] | None:
    leading = position.leading[:ranks]
    ids = [token.id for token in leading if token.id is not None]
    return ids if len(ids) == len(leading) else None

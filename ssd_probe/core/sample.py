"""Step 1 of SSD: sample solutions from a frozen model (paper section 1).

Generation is transformers' `generate`. What is saved are the **token ids**, since every later
number comes from teacher forcing on exactly those.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ssd_probe.core.config import SampleConfig
from ssd_probe.core.generation import ALONE, PADDED, batching, generate
from ssd_probe.core.streams import StreamedDraws, stream
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.writing import strict_json, write_jsonl
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import completion_text, render_prompt, token_ids
from ssd_probe.problems.prompts import Prompt


@dataclass(frozen=True)
class _Request:
    """One answer to draw: its place in the result, its prompt, which of `n`, how long at most."""

    place: int
    prompt: Prompt
    index: int
    ids: list[int]
    room: int


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    config: SampleConfig | None = None,
    *,
    part: Path | None = None,
    label: str = "sampling",
    how: str | None = None,
    **settings: Any,
) -> list[dict]:
    """`config.n` answers a prompt, in the order of the prompts; `settings` change the config.

    Rows: `sample_id, problem_id, messages | prompt, completion, prompt_ids, completion_ids,
    finished`, and what else the prompt carried. `completion_ids` end with the stop token when
    `finished`; `completion` is what they add to the prompt's text, without special tokens. An
    answer that reaches the model's context ends there, unfinished, and stderr says how many did.
    Each sample has random numbers of its own (`streams`): with the same seed it is the same,
    whatever else is drawn beside it, but for the rounding of batches; `how` prompts share one, see
    `batching`. With `part`, finished batches are kept in that file and not drawn again.

    Errors: `UserError` for a prompt without tokens, or that leaves no room in the context.
    """
    config = replace(config or SampleConfig(), **settings)
    requests = _requests(model, tokenizer, prompts, config)
    rows = _read_part(part)
    batches = _batches(requests, config.batch_size, how or batching(model))
    for batch in tqdm(batches, label, disable=None):
        if all(request.place in rows for request in batch):
            continue
        drawn = _draw(model, tokenizer, batch, decoding, config)
        new = {request.place: _row(tokenizer, model, request, ids) for request, ids in drawn}
        _append_part(part, new)
        rows |= new
    done = [rows[place] for place in range(len(requests))]
    if ended := at_context(model, done):
        context = context_length(model)
        line = f"{ended} of {len(done)} answers end unfinished at the model's context of {context}"
        print(line, file=sys.stderr)
    return done


def at_context(model: Any, rows: Sequence[dict]) -> int:
    """How many samples are unfinished because the model's context ended."""
    context = context_length(model)
    lengths = (len(r["prompt_ids"]) + len(r["completion_ids"]) for r in rows if not r["finished"])
    return sum(length == context for length in lengths)


def sample_to_file(
    path: Path,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    config: SampleConfig | None = None,
    *,
    how: str | None = None,
    **settings: Any,
) -> list[dict]:
    """`sample` into a JSON Lines file that appears only when it is complete; resumes, and reuses.

    The caller has checked that the settings are those of the file (`files.record.begin`).
    """
    if path.exists():
        return read_jsonl(path)
    part = path.with_name(path.name + ".part")
    about: dict[str, Any] = {"part": part, "label": path.stem, "how": how}
    rows = sample(model, tokenizer, prompts, decoding, config, **about, **settings)
    write_jsonl(path, rows)
    part.unlink()
    return rows


def _requests(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SampleConfig
) -> list[_Request]:
    context, vocabulary = context_length(model) or sys.maxsize, input_rows(model)
    requests: list[_Request] = []
    for prompt in prompts:
        ids, name = render_prompt(tokenizer, prompt), prompt.problem_id
        if not ids:
            raise UserError(
                f"{name}: the prompt is empty, and the tokenizer puts no token before it; "
                "give it some text, if only the name of a special token"
            )
        if max(ids) >= vocabulary:
            raise UserError(
                f"{name}: token id {max(ids)} is outside the model's vocabulary of {vocabulary}; "
                "is the tokenizer another model's?"
            )
        if len(ids) >= context:
            raise UserError(
                f"{name}: the prompt has {len(ids)} tokens, the model's context is {context}: no "
                "room for an answer; shorten it, or leave it out"
            )
        room = min(config.max_new_tokens, context - len(ids))
        for index in range(config.n):
            requests.append(_Request(len(requests), prompt, index, ids, room))
    return requests


def _batches(requests: list[_Request], size: int, how: str) -> list[list[_Request]]:
    """Alike in length, so that little is padding; longest first, so that memory fails early.

    Together are only answers that may grow as long, because the shorter ones' positions grow too.
    """
    ordered = sorted(requests, key=lambda r: (-len(r.ids), r.place))
    size = 1 if how == ALONE else size
    batches = []
    for _, same in groupby(ordered, key=lambda r: (r.room, how == PADDED or len(r.ids))):
        group = list(same)
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


@torch.no_grad()
def _draw(
    model: Any,
    tokenizer: Any,
    batch: Sequence[_Request],
    decoding: Decoding,
    config: SampleConfig,
) -> Iterator[tuple[_Request, list[int]]]:
    """Generate one batch; yields each request with its completion ids."""
    stops = _stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    pad = pad if pad < input_rows(model) else 0  # never seen, but looked up
    draws = None
    if not decoding.is_greedy:
        streams = [stream(config.seed, each.prompt.problem_id, each.index) for each in batch]
        draws = StreamedDraws(decoding, streams)
    prompts = [request.ids for request in batch]
    generated = generate(model, prompts, batch[0].room, stops, draws, pad)
    width = max(map(len, prompts))
    for request, row in zip(batch, generated[:, width:].tolist(), strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        yield request, row[:end]


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The stop tokens of model and tokenizer; chat models often have more than one."""
    stops = model.generation_config.eos_token_id
    ids = set(stops) if isinstance(stops, list) else {stops}
    return {token for token in ids | {tokenizer.eos_token_id} if token is not None}


def _row(tokenizer: Any, model: Any, request: _Request, completion_ids: list[int]) -> dict:
    prompt = request.prompt
    asked = {"messages": prompt.messages} if prompt.messages else {"prompt": prompt.text}
    row = {
        "sample_id": f"{prompt.problem_id}/{request.index}",
        "problem_id": prompt.problem_id,
        **asked,
        "completion": completion_text(tokenizer, request.ids, completion_ids),
        "prompt_ids": request.ids,
        "completion_ids": completion_ids,
        "finished": completion_ids[-1] in _stop_ids(model, tokenizer),
    }
    # A prompt file may hold answers of its own under these names.
    return row | {key: value for key, value in prompt.meta.items() if key not in row}


def _append_part(part: Path | None, rows: dict[int, dict]) -> None:
    if part is None:
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a", encoding="utf-8") as file:
        file.writelines(strict_json({"place": p, "row": row}) + "\n" for p, row in rows.items())
        file.flush()
        os.fsync(file.fileno())


def _read_part(part: Path | None) -> dict[int, dict]:
    """Rows of an interrupted run; a last line that the interruption cut short is dropped."""
    if part is None or not part.exists():
        return {}
    whole, newline, torn = part.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        part.write_text(whole + newline, encoding="utf-8")
    entries = [json.loads(line) for line in whole.split("\n") if line]
    return {entry["place"]: entry["row"] for entry in entries}


def usable(rows: Sequence[dict], tokenizer: Any = None) -> list[dict]:
    """Drop what the paper drops: empty answers and single-line stubs. Nothing else is filtered.

    With `tokenizer`, a sample may have token ids alone. `UserError` for one without a completion.
    """
    texts = [_completion(row, number, tokenizer) for number, row in enumerate(rows, start=1)]
    return [row for row, text in zip(rows, texts, strict=True) if "\n" in text.strip()]


def _completion(row: dict, number: int, tokenizer: Any) -> str:
    text, ids = row.get("completion"), row.get("completion_ids")
    if text is None and ids is not None and tokenizer is not None:
        token_ids(row, "completion_ids", len(tokenizer))
        return completion_text(tokenizer, row.get("prompt_ids") or [], ids)
    if not isinstance(text, str):
        raise UserError(
            f"sample {number}: no `completion` text; make samples with `ssd-probe sample`"
        )
    return text

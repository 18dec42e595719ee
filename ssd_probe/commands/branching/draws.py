"""Continuations from given token ids, kept in a file by name as they come."""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from ssd_probe.core.batching import batching
from ssd_probe.core.drawing import draw
from ssd_probe.core.requests import Request
from ssd_probe.decoding import Decoding
from ssd_probe.models.identity import Checkpoint

CHUNK = 192  # runs drawn before they are kept: what a kill costs
Key = tuple[str, int]
Asked = tuple[Request, int | None]  # a run, and the token at which it ends beside the model's own


def key_of(request: Request) -> Key:
    """What a run's ids are kept under."""
    return request.name, request.index


def draw_into(
    file: Path,
    checkpoint: Checkpoint,
    asked: Sequence[Asked],
    decoding: Decoding,
    *,
    seed: int,
    batch_size: int,
) -> dict[Key, list[int]]:
    """The new ids of every run; what `file` holds is not drawn again, and what is, goes there.

    The caller has checked that the file is of the same model, decoding and seed: a name and an
    index then stand for the same answer whatever else is asked, so that runs may be added.
    """
    known = dict(_read(file))
    left = [each for each in asked if key_of(each[0]) not in known]
    if left:
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        how = batching(model)
        bar = tqdm(total=len(asked), initial=len(asked) - len(left), desc="forcing tokens",
                   unit="run", disable=None)  # fmt: skip
        with file.open("a", encoding="utf-8") as kept, bar:
            for requests, end in _chunks(left):
                drawn = draw(
                    model,
                    tokenizer,
                    requests,
                    decoding,
                    seed=seed,
                    batch_size=batch_size,
                    how=how,
                    progress=False,
                    stops=() if end is None else (end,),
                )
                new = {key_of(r): ids for r, ids in zip(requests, drawn, strict=True)}
                kept.writelines(json.dumps([*key, ids]) + "\n" for key, ids in new.items())
                kept.flush()
                os.fsync(kept.fileno())
                known |= new
                bar.update(len(new))
    return {key_of(request): known[key_of(request)] for request, _ in asked}


def _chunks(asked: Sequence[Asked]) -> Iterator[tuple[list[Request], int | None]]:
    """In order, so that a program's runs, which begin alike, come together."""
    for end, same in groupby(asked, key=lambda each: each[1]):
        group = [request for request, _ in same]
        yield from ((group[i : i + CHUNK], end) for i in range(0, len(group), CHUNK))


def _read(file: Path) -> Iterator[tuple[Key, list[int]]]:
    """What an interrupted run has drawn; a last line that was cut short is dropped."""
    if not file.exists():
        return
    whole, newline, torn = file.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        file.write_text(whole + newline, encoding="utf-8")
    for line in whole.split("\n"):
        if line:
            name, index, ids = json.loads(line)
            yield (name, index), ids

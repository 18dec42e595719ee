"""The places that are watched: chosen and labelled once, by the model that training starts from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ssd_probe.analysis.labels import FORK, LOCK, OPEN, Rule
from ssd_probe.errors import UserError
from ssd_probe.files.writing import atomic_path, write_json
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import position_stats
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.probing.forward import encode
from ssd_probe.problems.texts import Text

KINDS = (LOCK, FORK, OPEN)  # what is watched
RANKS = 64  # kept of the start's distributions: its support must lie within them
BATCH_TOKENS = 4096
FILE, LOGITS = "contexts.json", "base.npy"

# Token ids [B, L], their mask, rows and positions [n] -> the model's logits there [n, V].
Forward = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contexts:
    """Sequences of token ids, and the places in them whose next token is watched.

    `rows`, `at`, `kinds` [n]: which sequence, the place of the token that is predicted (from 1 on),
    and whether that is a lock, a fork or an open position of the start.
    """

    ids: list[list[int]]
    rows: list[int]
    at: list[int]
    kinds: list[str]

    def save(self, folder: Path) -> None:
        """Into a folder that a resumed training reads."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "Contexts | None":
        """What `save` wrote; None where there is nothing."""
        if not ((folder / FILE).is_file() and (folder / LOGITS).is_file()):
            return None
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))

    def batches(self) -> list[range]:
        """Places [n] in runs of whole sequences of at most `BATCH_TOKENS`, padding counted."""
        found: list[range] = []
        start = end = width = count = 0
        for row, places in groupby(self.rows):
            size, length = sum(1 for _ in places), len(self.ids[row])
            if count and max(width, length) * (count + 1) > BATCH_TOKENS:
                found.append(range(start, end))
                start, width, count = end, 0, 0
            width, count, end = max(width, length), count + 1, end + size
        return [*found, range(start, end)]

    def logits(self, forward: Forward, places: range) -> Tensor:
        """The model's logits [len(places), V] at these places, in float32."""
        wanted = self.rows[places.start : places.stop]
        order = {row: i for i, row in enumerate(dict.fromkeys(wanted))}
        ids, mask = padded([self.ids[row] for row in order])
        row = torch.tensor([order[row] for row in wanted])
        at = torch.tensor(self.at[places.start : places.stop])
        return forward(ids, mask, row, at - 1).float()


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids [B, L], padded on the right, and their mask."""
    width = max(map(len, sequences))
    ids = [[*each, *[0] * (width - len(each))] for each in sequences]
    mask = [[1] * len(each) + [0] * (width - len(each)) for each in sequences]
    return torch.tensor(ids), torch.tensor(mask)


def chosen(
    texts: Sequence[Text],
    tokenizer: Any,
    model: Any,
    forward: Forward,
    rule: Rule,
    positions: int,
    max_length: int,
) -> Contexts:
    """Label every scored token of the texts by the model in hand; keep `positions` of each kind.

    Those kept lie evenly over all of their kind, so that rare forks count as much as locks. Texts
    are cut at `max_length` tokens or the model's context, and behind their last place.
    Errors: `UserError` for ids that the model does not know, and where no position has a kind.
    """
    longest = min(max_length, context_length(model) or max_length)
    sequences = [replace(s, end=min(s.end, longest)) for s in _encoded(texts, tokenizer, model)]
    sequences = [s for s in sequences if s.begin < s.end]
    if not sequences:
        raise UserError(
            f"watch: no token to watch within the first {longest} of each text: give texts whose "
            "prompts are shorter, or a larger max_length"
        )
    found = []
    for row, s in enumerate(sequences):
        at = torch.arange(s.begin, s.end)
        ids, mask = padded([s.ids[: s.end]])
        logits = forward(ids, mask, torch.zeros_like(at), at - 1)
        labels = rule.label(frame_of(position_stats(logits.float(), top_k=RANKS)))
        found.append(pd.DataFrame({"row": row, "at": at.numpy(), "kind": labels.to_numpy()}))
    kept = _evenly(pd.concat(found, ignore_index=True), positions)
    if kept.empty:
        raise UserError("watch: the rule finds no lock, fork or open position in these texts")
    rows = {row: i for i, row in enumerate(dict.fromkeys(kept["row"]))}
    ends = kept.groupby("row")["at"].max()
    return Contexts(
        ids=[sequences[row].ids[: ends[row]] for row in rows],  # the last place's own token: unseen
        rows=[rows[row] for row in kept["row"]],
        at=kept["at"].tolist(),
        kinds=kept["kind"].tolist(),
    )


def _encoded(texts: Sequence[Text], tokenizer: Any, model: Any) -> list[Any]:
    known = input_rows(model)
    sequences = [encode(text, tokenizer) for text in texts]
    for s in sequences:
        if max(s.ids, default=0) >= known:
            raise UserError(
                f"watch: {s.text.sample_id}: token id {max(s.ids)} is outside the model's "
                f"vocabulary of {known}; were the ids made with another model's tokenizer?"
            )
    return sequences


def _evenly(frame: pd.DataFrame, positions: int) -> pd.DataFrame:
    """At most so many rows of each kind, evenly spread over them, in the order of the texts."""
    places: list[int] = []
    for kind in KINDS:
        index = frame.index[frame["kind"] == kind]
        picked = np.linspace(0, len(index) - 1, min(positions, len(index))).round().astype(int)
        places += index[picked].tolist()
    return frame.loc[sorted(places)]


def frame_of(stats: PositionStats) -> pd.DataFrame:
    """Statistics as the columns that a `Rule` reads."""
    columns = stats.to_columns().items()
    return pd.DataFrame({name: list(v) if v.ndim > 1 else v for name, v in columns})


def save_logits(parts: Sequence[Tensor], folder: Path) -> None:
    """The start's logits [n, V], float32, as one file."""
    with atomic_path(folder / LOGITS) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate([part.cpu().numpy() for part in parts]))


def load_logits(folder: Path) -> np.ndarray:
    """What `save_logits` wrote, mapped: only the rows in use are in memory."""
    return np.load(folder / LOGITS, mmap_mode="r")

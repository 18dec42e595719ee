"""A probe's texts as the token viewer reads them: one block of bytes a text, and what they share.

A block is a header and the arrays that it names, little-endian, one after another:

    uint32 length of the header | header, JSON, padded to 4 bytes | arrays, each padded to 4 bytes

The header says `rows`, `ranks`, `arrays` as (name, type, length), and the strings that arrays point
into: `texts` of tokens, `segments`, `syntaxes`. `views/web/block.js` reads it.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ssd_probe.analysis.frames import stacked, stats_of
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import COMPARISONS
from ssd_probe.probing.table import OTHER, Probe, require_comparable

COLUMNS = ("sample_id", "problem_id", "position", "token_id", "token", "segment", "syntax",
           "logprob", "rank", "max_logit", "log_partition", "entropy", "varentropy",
           "tail_log_mass", "top_ids", "top_logits", "valid")  # fmt: skip
SAME = ("sample_id", "position", "token_id")  # of two probes of the same texts
TYPES = {"f4": np.float32, "i4": np.int32, "u2": np.uint16, "u1": np.uint8}


class Text(NamedTuple):
    """A text of a probe, its two probes joined if there are two."""

    sample_id: str
    problem_id: str
    frame: pd.DataFrame  # of the base; a pair's comparisons are its columns
    other: pd.DataFrame | None


def texts_of(
    probe: Probe,
    other: Probe | None,
    limit: int | None = None,
    parts: Iterable[int] | None = None,
    only: Collection[str] | None = None,
) -> Iterator[Text]:
    """The texts in order, read part by part, all or those of some; of a pair's folder both sides.

    only: the names of those that are wanted.

    Errors: `UserError` where the probes hold other tokens, other texts, or no rows.
    """
    other = second_side(probe, other)
    pair = (*COLUMNS, *COMPARISONS) if probe.is_pair and probe.side == "base" else COLUMNS
    numbers = range(probe.record["parts"]) if parts is None else list(parts)
    second = None if other is None else _by_text(other, COLUMNS, numbers, only)
    count = 0
    for name, frame in _by_text(probe, pair, numbers, only):
        theirs = None if second is None else next(second, (None, None))[1]
        if other is not None and (theirs is None or not same_rows(frame, theirs)):
            raise other_texts(probe, other, name)
        if limit is not None and count >= limit:
            return
        count += 1
        yield Text(name, str(frame["problem_id"].iloc[0]), frame, theirs)
    if second is not None and other is not None and (more := next(second, None)):
        raise other_texts(probe, other, more[0])
    if not count:
        raise nothing_scored(probe)


def second_side(probe: Probe, other: Probe | None) -> Probe | None:
    """The second model's probe: `other`, or that of a pair's folder, or None.

    Errors: `UserError` where the probes hold other tokens.
    """
    if other is not None:
        require_comparable(probe, other)
    elif probe.is_pair and probe.side == "base":
        return Probe(probe.path, probe.record, side="other")
    return other


def _by_text(
    probe: Probe, columns: Sequence[str], parts: Iterable[int], only: Collection[str] | None
) -> Iterator[tuple[str, pd.DataFrame]]:
    for number in parts:
        yield from probe.texts(number, columns, only)


def same_rows(base: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two frames are of the same positions of the same texts."""
    return len(base) == len(other) and all(base[name].equals(other[name]) for name in SAME)


def other_texts(probe: Probe, other: Probe, name: str) -> UserError:
    """That the probes are not of the same texts, first at `name`."""
    return UserError(
        f"{probe.path} and {other.path} hold other texts or positions (first at {name!r}): "
        "probe both models on the same texts with the same flags"
    )


def nothing_scored(probe: Probe) -> UserError:
    """That there is nothing to show."""
    return UserError(f"{probe.path}: no position was scored; probe a text of two tokens or more")


def pack(text: Text, ranks: int, ids: bool = True) -> bytes:
    """The block of a text: its tokens, and of each side the first `ranks` ranks and the tail.

    ids: of the ranks, without which only numbers can be shown.

    `tail` is log of the mass beyond rank `ranks`, from what is stored: the ranks up to the probe's
    own K and the mass beyond them. `ties` is 0 where rank `ranks` + 1 is known to be below rank
    `ranks`, so that top-k at `ranks` is exact.
    """
    frame = text.frame
    arrays: dict[str, np.ndarray] = {
        "position": frame["position"].to_numpy(np.int32),
        "token_id": frame["token_id"].to_numpy(np.int32),
    }
    strings: dict[str, list[str]] = {}
    for name, plural, kind in (
        ("token", "texts", np.int32), ("segment", "segments", np.uint8),
        ("syntax", "syntaxes", np.uint8),
    ):  # fmt: skip
        codes, found = pd.factorize(frame[name].fillna(""))
        strings[plural] = [str(each) for each in found]
        arrays[name] = codes.astype(kind)
    for name in COMPARISONS:
        if name in frame:
            arrays[name] = frame[name].to_numpy(np.float32)
    arrays |= _side(frame, ranks)
    if text.other is not None:
        arrays |= {OTHER + name: array for name, array in _side(text.other, ranks).items()}
    stored = min(ranks, len(frame["top_ids"].iloc[0]))
    if not ids:
        arrays = {name: array for name, array in arrays.items() if not name.endswith("top_ids")}
    return _bytes({"rows": len(frame), "ranks": stored, **strings}, arrays)


def _side(frame: pd.DataFrame, ranks: int) -> dict[str, np.ndarray]:
    stats = stats_of(frame)
    k = min(ranks, stats.top_ids.shape[1])
    if k < stats.top_ids.shape[1]:
        beyond = stats.top_logits[:, k:].double() - stats.logsumexp[:, None]
        beyond = torch.cat([beyond, stats.tail_log_mass.double()[:, None]], -1)
        tail = beyond.logsumexp(-1)  # in logarithms: a mass of e^-1000 is one
        ties = stats.top_logits[:, k] >= stats.top_logits[:, k - 1]
    else:
        tail, ties = stats.tail_log_mass, ~stats.support_exact(Decoding(1.0, k, 1.0))
    arrays = {
        name: frame[name].to_numpy(np.float32) for name in ("logprob", "log_partition", "entropy")
    }
    return arrays | {
        "rank": frame["rank"].to_numpy(np.int32),
        "tail": tail.numpy().astype(np.float32),
        "ties": ties.numpy().astype(np.uint8),
        "top_ids": stats.top_ids[:, :k].numpy().astype(np.int32).ravel(),
        "top_logits": stats.top_logits[:, :k].numpy().astype(np.float32).ravel(),
        "valid": stats.valid.numpy().astype(np.uint8),
    }


def _bytes(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    kinds = {np.dtype(kind): name for name, kind in TYPES.items()}
    header["arrays"] = [[name, kinds[array.dtype], array.size] for name, array in arrays.items()]
    head = _padded(json.dumps(header).encode("ascii"), b" ")
    little = (_padded(array.astype(array.dtype.newbyteorder("<")).tobytes(), b"\0")
              for array in arrays.values())  # fmt: skip
    return b"".join([len(head).to_bytes(4, "little"), head, *little])


def _padded(content: bytes, filler: bytes) -> bytes:
    return content + filler * (-len(content) % 4)


class Names:
    """What ids stand for, for those that the blocks show."""

    def __init__(self, bytes_of: Callable[[list[int]], list[bytes]] | None = None) -> None:
        """`bytes_of` gives the bytes of ids; without it only tokens of the texts have a name."""
        self._bytes_of = bytes_of
        self._seen: dict[int, str] = {}
        self._wanted: set[int] = set()

    def add(self, text: Text, ranks: int) -> None:
        """Take note of the ids of a text."""
        frames = [text.frame] if text.other is None else [text.frame, text.other]
        tokens = text.frame[["token_id", "token"]].drop_duplicates("token_id")
        self._seen |= dict(zip(tokens["token_id"].tolist(), tokens["token"], strict=True))
        for frame in frames:
            ids = np.unique(stacked(frame, "top_ids")[:, :ranks])
            self._wanted.update(ids[ids >= 0].tolist())
        self._wanted.update(tokens["token_id"].tolist())

    def table(self) -> dict[str, dict[str, str]]:
        """`names`: id -> text; `partial`: id -> bytes in hex, of tokens that are no whole UTF-8."""
        ids = sorted(self._wanted)
        if self._bytes_of is None:
            known = {i: self._seen[i] for i in ids if i in self._seen}
            return {"names": {str(i): name for i, name in known.items()}, "partial": {}}
        names, partial = {}, {}
        for i, piece in zip(ids, self._bytes_of(ids), strict=True):
            try:
                names[str(i)] = piece.decode("utf-8")
            except UnicodeDecodeError:
                partial[str(i)] = piece.hex(" ")
        return {"names": names, "partial": partial}

"""The texts of a probe by number: a part is read when one of its texts is asked for."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssd_probe.analysis.frames import unpacked
from ssd_probe.probing.table import Probe
from ssd_probe.views.blocks import (
    COLUMNS,
    Text,
    nothing_scored,
    other_texts,
    same_rows,
    second_side,
)

MODEL = "model"  # the column that tells two models' rows apart
SIDES = ("base", "tuned")


class Library:
    """The texts of one probe, or of two of the same texts.

    Errors: `UserError` where the probes hold other tokens, other texts, or no rows.
    """

    def __init__(self, probe: Probe, other: Probe | None = None) -> None:
        second = second_side(probe, other)
        self.probe = probe
        self._one_folder = other is None
        self._base = _Side(probe)
        self._other = None if second is None else _Side(second)
        if not self._base.names:
            raise nothing_scored(probe)
        if self._other is not None and self._other.lengths != self._base.lengths:
            pairs = zip(self._base.lengths.items(), self._other.lengths.items(), strict=False)
            first = next((a[0] for a, b in pairs if a != b), self._base.names[-1])
            raise other_texts(probe, self._other.probe, first)

    @property
    def lengths(self) -> dict[str, int]:
        """Positions of each text, by its `sample_id`, in order."""
        return self._base.lengths

    def __len__(self) -> int:
        return len(self._base.names)

    def __getitem__(self, number: int) -> Text:
        """A text; its frames have the index of `Probe.frame`."""
        name, frame = self._base.names[number], self._base.frame(number)
        theirs = None if self._other is None else self._other.frame(number)
        if self._other is not None and theirs is not None and not same_rows(frame, theirs):
            raise other_texts(self.probe, self._other.probe, name)
        return Text(name, str(frame["problem_id"].iloc[0]), frame, theirs)

    def rows(self, name: str, first: int, last: int) -> pd.DataFrame:
        """The rows of these positions of a text, as in `Probe.frame`; none for an unknown name.

        Of two probe folders those of both, told apart by the column `model`.
        """
        if name not in self.lengths:
            return unpacked(self[0].frame.iloc[:0])
        text = self[self._base.names.index(name)]
        frames = [text.frame] if self._one_folder or text.other is None else [*text[2:]]
        chosen = [unpacked(frame[frame["position"].between(first, last)]) for frame in frames]
        if len(chosen) == 1:
            return chosen[0]
        for model, frame in zip(SIDES, chosen, strict=True):
            frame.insert(0, MODEL, model)
        return pd.concat(chosen)

    def sample(self, most: int, seed: int = 0) -> Text:
        """At most `most` positions of all texts, drawn without replacement, as one text."""
        count = sum(self.lengths.values())
        chosen = np.arange(count)
        if count > most:
            chosen = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
        frame = self._base.rows(chosen)
        theirs = None if self._other is None else self._other.rows(chosen)
        if self._other is not None and theirs is not None and not same_rows(frame, theirs):
            raise other_texts(self.probe, self._other.probe, self._base.names[0])
        return Text("sample", "", frame, theirs)


class _Side:
    """One probe's texts; the part that was read last is kept."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.lengths: dict[str, int] = {}
        self._part_of: list[int] = []
        self._starts: list[int] = []
        self._held: tuple[int, dict[str, pd.DataFrame]] = (-1, {})
        start = 0
        for part in range(probe.record["parts"]):
            self._starts.append(start)
            ids = probe.part(part, ["sample_id"])["sample_id"]
            counts = ids.groupby(ids, sort=False).size()
            self.lengths |= {str(name): int(rows) for name, rows in counts.items()}
            self._part_of += [part] * len(counts)
            start += len(ids)
        self.names = [*self.lengths]

    def rows(self, numbers: NDArray[np.int64]) -> pd.DataFrame:
        """These rows of the whole table, ascending, with what a text has to have."""
        part_of = np.searchsorted(self._starts, numbers, side="right") - 1
        pieces = []
        for part in np.unique(part_of):
            rows = numbers[part_of == part]
            pieces.append(self.probe.part(int(part), COLUMNS, rows - self._starts[part]))
            pieces[-1].index = pd.Index(rows)
        return pd.concat(pieces)

    def frame(self, number: int) -> pd.DataFrame:
        """A text's rows."""
        part, held = self._part_of[number], self._held  # a kernel may ask from two threads
        if held[0] != part:
            table = self.probe.part(part)
            table.index = pd.RangeIndex(self._starts[part], self._starts[part] + len(table))
            texts = table.groupby("sample_id", sort=False)
            held = self._held = (part, {str(name): rows for name, rows in texts})
        return held[1][self.names[number]]

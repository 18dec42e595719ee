"""Makes the probe table, in memory or into a folder: part by part, resumed, shared between ranks.

Safety of files is `parts.py`; what is in the record and which parts are missing is decided here.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ssd_probe.errors import Resumable, UserError
from ssd_probe.files.claims import claim, ranks, record_lock
from ssd_probe.files.parts import (
    Damaged,
    manifest_of,
    part_file,
    plan,
    remove,
    remove_temporaries,
    resumable_when_full,
    seal,
    sealed,
    stop_requests,
)
from ssd_probe.files.record import begin, read_record
from ssd_probe.files.writing import write_json
from ssd_probe.models.checkpoints import device_name
from ssd_probe.models.heads import output_rows
from ssd_probe.probing.forward import Encoded, Scorer, in_eval
from ssd_probe.probing.pairs import PairScorer
from ssd_probe.probing.table import Probe, rows_of, schema, write_table


@dataclass
class Maker:
    """Makes the rows of the probe table, batch by batch and part by part."""

    scorer: Scorer | PairScorer
    tokenizer: Any
    sequences: list[Encoded]
    truncated: int
    progress: bool

    @cached_property
    def plan(self) -> list[range]:
        return plan([_positions(s) for s in self.sequences])

    def part(self, number: int) -> list[Encoded]:
        return [self.sequences[i] for i in self.plan[number]]

    def score(
        self, part: list[Encoded], rows: dict[int, pa.Table], done: list[list[int]]
    ) -> Iterator[int]:
        """Score the batches that are not `done`; after each: how many positions it had.

        Batches are always those of the whole part, because numbers depend, in their last bits, on
        the batch they were computed in.
        """
        for batch in self.scorer.batches(part):
            if batch in done:
                continue
            stats = self.scorer.score_batch([part[i] for i in batch])
            for i, fields in zip(batch, stats, strict=True):
                rows[i] = self.rows(part[i], fields)
            done.append(batch)
            yield sum(len(rows[i]) for i in batch)

    @property
    def schema(self) -> pa.Schema:
        return schema(self.scorer.top_k, isinstance(self.scorer, PairScorer))

    def rows(self, s: Encoded, fields: dict[str, np.ndarray]) -> pa.Table:
        pair = isinstance(self.scorer, PairScorer)
        return rows_of(s, fields, self.tokenizer, self.scorer.top_k, pair)

    def table(self, rows: dict[int, pa.Table]) -> pa.Table:
        empty = self.schema.empty_table()
        return pa.concat_tables([empty, *(rows[i] for i in sorted(rows))])

    def frame(self) -> Any:
        tables = []
        with self.at_work(range(len(self.plan))) as bar:
            for number in range(len(self.plan)):
                rows: dict[int, pa.Table] = {}
                for count in self.score(self.part(number), rows, []):
                    bar.update(count)
                tables.append(self.table(rows))
        frame = pa.concat_tables(tables).to_pandas()
        frame.attrs |= {"truncated": self.truncated, "invalid": int((~frame["valid"]).sum())}
        _say_invalid(frame.attrs["invalid"])
        return frame

    @contextmanager
    def at_work(self, numbers: Sequence[int]) -> Iterator[tqdm]:
        """The model in eval mode, and a bar over the positions of these parts."""
        total = sum(_positions(s) for number in numbers for s in self.part(number))
        hidden = not self.progress or not sys.stderr.isatty()
        bar = tqdm(desc="probe", total=total, unit="tok", unit_scale=True, disable=hidden)
        with in_eval(self.scorer.models), bar:
            yield bar

    def about(self) -> dict:
        model = self.scorer.model
        return {
            "dtype": str(model.dtype),
            "device": device_name(str(model.device)),
            "truncated": self.truncated,
            "head_rows": output_rows(model),
            "parts": len(self.plan),
        }


def _positions(s: Encoded) -> int:
    return max(0, s.end - s.begin)


def _say_invalid(count: int) -> None:
    if count:
        line = f"{count} positions have NaN or infinite logits: no statistics, `valid` is False"
        print(line, file=sys.stderr)


def write_folder(out: Path, settings: dict, about: dict, load: Callable[[], Maker]) -> Probe:
    """Make this rank's parts that are not there yet; the last rank completes the record."""
    rank, world = ranks()
    record = out / "probe.json"
    with resumable_when_full(out), claim(out, rank=rank if world > 1 else None):
        with record_lock(out):
            old = _old_record(out, settings)
        remove_temporaries(out, lambda number: number % world == rank)
        if "rows" in old and not _missing(out, range(rank, old["parts"], world)):
            return Probe(out, old)
        made = load()  # before the record: input that cannot be probed leaves none
        with record_lock(out):
            begin(record, settings, about | made.about())
        missing = _missing(out, range(rank, len(made.plan), world), made)
        with stop_requests() as stop, made.at_work(missing) as bar:
            for number in missing:
                _refuse_to_stop(out, made, stop)
                _make_part(out, number, made, stop, bar)
        with record_lock(out):
            return _complete(out, made, rank, world)


def _old_record(out: Path, settings: dict) -> dict:
    """The record that is there, {} if none; refuses other settings and other folders."""
    record = out / "probe.json"
    for temporary in out.glob(".probe.json.*.tmp"):
        temporary.unlink()
    if record.exists():
        begin(record, settings)
        return read_record(record)
    if any(out.glob("part-*.parquet")):
        raise UserError(f"{out}: holds Parquet parts of something else; choose another folder")
    return {}


def _missing(out: Path, numbers: Sequence[int], made: Maker | None = None) -> list[int]:
    """Those parts that are not sealed and whole, or (with `made`) are not of its texts."""
    missing = []
    for number in numbers:
        about = sealed(part_file(out, number))
        if about is None or not (made is None or _belongs(about, made, number)):
            missing.append(number)
        else:
            remove(part_file(out, number, "partial"))
    return missing


def _belongs(about: dict, made: Maker, number: int) -> bool:
    """Whether a manifest is of this part's texts, and all their rows (or those of its batches)."""
    texts, part = made.plan[number], made.part(number)
    indices = (i for batch in about["batches"] for i in batch) if "batches" in about else None
    rows = sum(_positions(s) for s in ([part[i] for i in indices] if indices else part))
    return about["texts"] == [texts.start, texts.stop] and about["rows"] == rows


def _make_part(
    out: Path, number: int, made: Maker, stop: Callable[[], str | None], bar: tqdm
) -> None:
    """Score and seal one part; when it ends early, what there is of it."""
    part, partial = made.part(number), part_file(out, number, "partial")
    scored = sum(_positions(s) > 0 for s in part)
    rows, done = _resumed(partial, number, made)
    bar.total -= sum(map(len, rows.values()))
    before = len(done)
    try:
        for count in made.score(part, rows, done):
            bar.update(count)
            if len(rows) < scored:
                _refuse_to_stop(out, made, stop, len(done))
    except BaseException:
        if len(done) > before:
            rows = {i: rows[i] for batch in done for i in batch}
            _seal(partial, number, made, rows, batches=done)
        raise
    _seal(part_file(out, number), number, made, rows)
    remove(partial)


def _refuse_to_stop(
    out: Path, made: Maker, stop: Callable[[], str | None], batches: int = 0
) -> None:
    """Raise `Resumable` if somebody asked to stop."""
    if name := stop():
        parts = sum(part_file(out, n).with_suffix(".json").exists() for n in range(len(made.plan)))
        raise Resumable(
            f"{out}: stopped by {name} with {parts} of {len(made.plan)} parts done and {batches} "
            "batches of the next; run the same command to go on"
        )


def _seal(file: Path, number: int, made: Maker, rows: dict[int, pa.Table], **about: Any) -> None:
    table = made.table(rows)
    texts = made.plan[number]
    seal(
        file,
        lambda path: write_table(table, path),
        texts=[texts.start, texts.stop],
        rows=len(table),
        invalid=int(np.count_nonzero(~table["valid"].to_numpy())),
        **about,
    )


def _resumed(
    partial: Path, number: int, made: Maker
) -> tuple[dict[int, pa.Table], list[list[int]]]:
    """Rows by text, and the batches, of a part that an earlier run was stopped in."""
    about = sealed(partial)
    if about is None or not _belongs(about, made, number):
        remove(partial)
        return {}, []
    part = made.part(number)
    table = pa.table(pq.read_table(partial).columns, schema=made.schema)
    rows, start = {}, 0
    for i in sorted(i for batch in about["batches"] for i in batch):
        rows[i] = table.slice(start, _positions(part[i]))
        start += len(rows[i])
    # With another batch size there are other batches, and a text's rows are those of its batch.
    done = [batch for batch in made.scorer.batches(part) if batch in about["batches"]]
    return {i: rows[i] for batch in done for i in batch}, done


def _complete(out: Path, made: Maker, rank: int, world: int) -> Probe:
    """The folder with its final record; left unfinished while other ranks' parts are missing.

    `rows` in the record says that the folder is complete. Every rank tries, with its own parts
    sealed, so whoever seals the last part is sure to find them all.
    """
    record = out / "probe.json"
    manifests = []
    for number in range(len(made.plan)):
        with suppress(Damaged):
            manifests.append(manifest_of(part_file(out, number)))
    content = read_record(record)
    if missing := len(made.plan) - len(manifests):
        line = f"{out}: rank {rank} of {world} is done; {missing} parts of other ranks are not yet"
        print(line, file=sys.stderr)
        return Probe(out, content)
    counts = {name: sum(about[name] for about in manifests) for name in ("rows", "invalid")}
    if content != (content := content | made.about() | counts):
        write_json(record, content)
    _say_invalid(counts["invalid"])
    return Probe(out, content)

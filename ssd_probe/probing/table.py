"""The probe table: its columns, the rows of one text, and reading it back from a folder."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ssd_probe.errors import UserError
from ssd_probe.files.parts import Damaged, manifest_of, part_file
from ssd_probe.files.record import read_record
from ssd_probe.kernels.fields import RANKED
from ssd_probe.kernels.fields import SCALARS as MEASURED
from ssd_probe.kernels.results import COMPARISONS, PositionStats
from ssd_probe.probing.syntax import label_tokens

if TYPE_CHECKING:  # reading a table must not wait for transformers
    from ssd_probe.probing.forward import Encoded

SCHEMA_VERSION = "2"
IMPORTED = "imported"  # of `foreign.table`: no probe, and refused as one
# Columns of the table, and the field of `PositionStats` each is.
SCALARS = {
    "logprob": "target_logprob",
    "rank": "target_rank",
    **{name: name for name in MEASURED},
    "padding_mass": "padding_mass",  # of `Scorer`: on rows of the output layer that are no tokens
}
NOISE = "noise.parquet"
OTHER = "other_"  # begins the columns of a pair's second model


def schema(top_k: int, pair: bool = False) -> pa.Schema:
    """The columns; of a pair also the other model's and the comparisons of `PairStats`."""
    text = dict.fromkeys(["sample_id", "problem_id"], pa.string())
    text |= dict.fromkeys(["position", "token_id"], pa.int32())
    text |= dict.fromkeys(["token", "segment", "syntax"], pa.string())
    kinds = text | _measured(top_k, pair)
    return pa.schema(list(kinds.items()), metadata={"ssd_probe.schema": SCHEMA_VERSION})


def _measured(top_k: int, pair: bool) -> dict[str, pa.DataType]:
    ids, logits = pa.list_(pa.int32(), top_k), pa.list_(pa.float32(), top_k)
    kinds: dict[str, pa.DataType] = {
        **dict.fromkeys(SCALARS, pa.float32()),
        **{"rank": pa.int32(), "top_ids": ids, "top_logits": logits, "valid": pa.bool_()},
    }
    if pair:
        kinds |= {OTHER + name: kind for name, kind in kinds.items()}
        kinds |= {**dict.fromkeys(COMPARISONS, pa.float32()), "other_at_base_top": logits}
    return kinds


def _field(column: str) -> str:
    """What `PositionStats` or `PairStats` calls a column."""
    if column.startswith(OTHER):
        own = column.removeprefix(OTHER)
        return OTHER + SCALARS.get(own, own)
    return SCALARS.get(column, column)


def rows_of(
    s: "Encoded", stats: dict[str, np.ndarray], tokenizer: Any, top_k: int, pair: bool = False
) -> pa.Table:
    """The rows of one text from the fields of its scorer at its scored positions."""
    labels = label_tokens(
        s.ids, tokenizer, prompt_length=s.prompt_length, is_code=s.is_code
    )  # of the whole text: a cut one does not parse
    scored = slice(s.begin, s.end)
    count = s.end - s.begin
    columns = {
        "sample_id": [s.text.sample_id] * count,
        "problem_id": [s.text.problem_id] * count,
        "position": np.arange(s.begin, s.end, dtype=np.int32),
        "token_id": np.array(s.ids[scored], dtype=np.int32),
        "token": labels.token[scored],
        "segment": labels.segment[scored],
        "syntax": labels.syntax[scored],
    }
    for column in _measured(top_k, pair):
        values = stats[_field(column)]
        lists = values.ndim == 2
        columns[column] = (
            pa.FixedSizeListArray.from_arrays(values.ravel(), top_k) if lists else values
        )
    return pa.table(columns, schema=schema(top_k, pair))


def write_table(table: pa.Table, path: Path) -> None:
    """As Parquet, the same bytes for the same rows however they were put together.

    Of floats the first bytes, then the second ... together: a third smaller, and read faster.
    """
    lists = [pa.types.is_list(t) or pa.types.is_fixed_size_list(t) for t in table.schema.types]
    leaves = {
        f"{field.name}.list.element" if nested else field.name: (
            field.type.value_type if nested else field.type
        )
        for field, nested in zip(table.schema, lists, strict=True)
    }
    floats = [name for name, kind in leaves.items() if pa.types.is_floating(kind)]
    pq.write_table(
        table.combine_chunks(),
        path,
        compression="zstd",
        use_dictionary=[name for name in leaves if name not in floats],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
    )


class Probe:
    """A probe folder; a column is read when it is asked for.

    A pair's folder has the base's columns, the other model's as `other_*`, and the comparisons
    `kl_base_other`, `kl_other_base`, `js`, `tv`, `other_at_base_top`; loaded with `side="other"` it
    reads as a probe of the other model alone.
    """

    def __init__(
        self,
        path: Path,
        record: dict,
        columns: Sequence[str] | None = None,
        side: Literal["base", "other"] = "base",
    ) -> None:
        self.path, self.record, self._columns, self.side = path, record, columns, side

    @classmethod
    def load(
        cls,
        path: str | Path,
        columns: Sequence[str] | None = None,
        side: Literal["base", "other"] = "base",
    ) -> "Probe":
        """Open a folder; `columns` restricts `frame`; `side` of a pair.

        `UserError` if it is missing, unfinished, or has parts that are missing or of a wrong size.
        Each page's checksum is compared when it is read.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such probe folder; make it with `ssd-probe probe --out`")
        if not (path / "probe.json").is_file():
            raise UserError(
                f"{path}: no probe.json; give a probe's folder (a run's are in probes/)"
            )
        record = read_record(path / "probe.json")
        if "rows" not in record:
            raise UserError(f"{path}: this probe is unfinished; run the same command to finish it")
        if record.get("settings", {}).get("schema") == IMPORTED:
            raise UserError(
                f"{path}: imported log-probabilities, known in part by intervals; only "
                "`ssd-probe import` reads them, or pandas its imported.parquet"
            )
        if record.get("settings", {}).get("schema") != SCHEMA_VERSION:
            raise UserError(f"{path}: another schema version than {SCHEMA_VERSION}; probe again")
        probe = cls(path, record, columns, side)
        if side == "other" and not probe.is_pair:
            raise UserError(f"{path}: not a pair; make one with `ssd-probe probe --pair MODEL`")
        for file in probe._files:
            _manifest(file)
        return probe

    def __len__(self) -> int:
        """Positions; of an unfinished probe those that are there."""
        if self.finished:
            return self.record["rows"]
        files = (file for file in self._files if file.with_suffix(".json").exists())
        return sum(_manifest(file)["rows"] for file in files)

    @property
    def finished(self) -> bool:
        """False only for what `probe` returns in a rank whose fellows are still at work."""
        return "rows" in self.record

    @property
    def settings(self) -> dict:
        """What was asked for; `record` also says model, rows, truncated and provenance."""
        return self.record["settings"]

    @property
    def is_pair(self) -> bool:
        return bool(self.settings.get("pair"))

    @property
    def noise(self) -> pd.DataFrame | None:
        """Some of the base's texts scored again in other batches (`noise_floor`), or None."""
        file = self.path / NOISE
        return pd.read_parquet(file) if self.side == "base" and file.exists() else None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The whole table, yours to change; what the other methods give is read-only."""
        return self._table(self._columns).to_pandas(self_destruct=True)

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """These columns and no others. `UserError` for an unknown name or a damaged file."""
        return _frame(self._table(names))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The table in order, a part at a time, so that memory does not grow with positions.

        A part is whole texts: 64, or fewer with about 131,072 positions.
        """
        names = self._known(columns)
        return (_frame(self._part(file, names)) for file in self._files)

    def texts(
        self, number: int, columns: Sequence[str], only: Collection[str] | None = None
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        """The texts of a part, or those of these names, each by itself; its rows from 0."""
        table = self._part(self._files[number], self._known([*columns]))
        ids = np.asarray(table["sample_id"])
        starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
        for start, end in itertools.pairwise(starts):
            if start < end and (only is None or ids[start] in only):
                yield str(ids[start]), table.slice(start, end - start).to_pandas(split_blocks=True)

    def part(
        self,
        number: int,
        columns: Sequence[str] | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> pd.DataFrame:
        """One part of `record["parts"]`, as `batches` gives it; or these of its rows."""
        table = self._part(self._files[number], self._known(columns))
        return _frame(table if rows is None else table.take(pa.array(rows, pa.int64())))

    def stats(self) -> PositionStats:
        """All rows as `PositionStats`: supports, masses, entropies under any decoding."""
        top_k = self.settings["top_k"]
        table = self._table(list(_measured(top_k, pair=False)))
        columns: dict[str, np.ndarray] = {}
        for name in table.column_names:
            if name in RANKED:
                flat = table[name].combine_chunks().flatten()
                columns[name] = flat.to_numpy().reshape(len(table), top_k)
            else:
                columns[_field(name)] = table[name].to_numpy()
        return PositionStats.from_columns(columns)

    @property
    def _files(self) -> list[Path]:
        return [part_file(self.path, number) for number in range(self.record["parts"])]

    def _known(self, columns: Sequence[str] | None) -> list[str]:
        known = schema(self.settings["top_k"], self.is_pair and self.side == "base").names
        if unknown := set(columns or ()) - set(known):
            raise UserError(f"{self.path}: no column {sorted(unknown)[0]!r}; there are {known}")
        return list(known if columns is None else columns)

    def _table(self, columns: Sequence[str] | None) -> pa.Table:
        names = self._known(columns)
        table = pa.concat_tables(self._part(file, names) for file in self._files)
        if len(table) != len(self):
            raise UserError(f"{self.path}: {len(table)} rows, not {len(self)}; probe again")
        return table

    def _part(self, file: Path, names: list[str]) -> pa.Table:
        rows = _manifest(file)["rows"]
        own = set(_measured(1, False)) if self.side == "other" else set()
        stored = [OTHER + name if name in own else name for name in names]
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                table = parquet.read(stored).select(stored).rename_columns(names)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise _damaged(file, " ".join(str(error).split())[:120]) from None
        wanted = schema(self.settings["top_k"], self.is_pair)
        if len(table) != rows or any(table.schema.field(n) != wanted.field(n) for n in names):
            raise _damaged(file, "not the rows and columns that were written")
        return table


def require_comparable(base: Probe, other: Probe) -> None:
    """`UserError` where ids stand for other tokens in one probe than in the other."""
    for key, what in (("tokenizer", "tokenizers"), ("head_rows", "numbers of output rows")):
        if base.record.get(key) != other.record.get(key):
            raise UserError(
                f"{base.path} and {other.path} have different {what}: nothing can be compared"
            )


def _manifest(file: Path) -> dict:
    try:
        return manifest_of(file)
    except Damaged as reason:
        raise _damaged(file, str(reason)) from None


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file}: missing or damaged ({reason}); run the same `ssd-probe probe` command "
        "to make that part again"
    )


def _frame(table: pa.Table) -> pd.DataFrame:
    """Read-only: columns are taken as they are where that can be, so there are no two tables.

    Ranks stay one block of Arrow's, where an array a row would cost more than all that is
    computed from them: `analysis.frames.stacked` has them as [N, K].
    """
    return table.to_pandas(split_blocks=True, self_destruct=True, types_mapper=_ranks_as_they_are)


def _ranks_as_they_are(kind: pa.DataType) -> pd.ArrowDtype | None:
    return pd.ArrowDtype(kind) if pa.types.is_fixed_size_list(kind) else None

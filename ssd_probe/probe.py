"""Probe a model: the statistics of its next-token distribution at every position of given texts.

Teacher forcing on token ids; batches of alike lengths; never more than a chunk of logits at a time.

    frame = probe("tiny", read_texts(["humaneval"]))          # a pandas frame
    done = probe("tiny", texts, out="runs/demo/probes/base")  # Parquet parts; resumes
    Probe.load("runs/demo/probes/base").columns(["token", "entropy"])
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import PreTrainedModel

from ssd_probe.checkpoints import load_model, load_tokenizer, model_identity
from ssd_probe.data import Text, atomic_path
from ssd_probe.errors import UserError
from ssd_probe.forward import Encoded, Scorer, cut, encode
from ssd_probe.kernels.stats import PositionStats
from ssd_probe.run import begin, claim, read_record, write_json
from ssd_probe.syntax import label_tokens

SCHEMA_VERSION = "1"
TEXTS_PER_PART = 64
# Columns of the table, and the field of `PositionStats` each is.
_SCALARS = {
    "logprob": "target_logprob",
    "rank": "target_rank",
    "max_logit": "max_logit",
    "log_partition": "log_partition",
    "entropy": "entropy",
    "varentropy": "varentropy",
    "tail_log_mass": "tail_log_mass",
}
_STATS_COLUMNS = [*_SCALARS, "top_ids", "top_logits", "valid"]


def probe(
    model: str | Path | PreTrainedModel,
    texts: Sequence[Text],
    out: str | Path | None = None,
    *,
    tokenizer: Any = None,
    top_k: int = 64,
    max_length: int | None = None,
    include_prompt: bool = False,
    batch_size: int = 8,
    rows_per_chunk: int = 1024,
    dtype: str = "auto",
    device: str | None = None,
    attn: str | None = None,
    backend: str = "auto",
    progress: bool = True,
) -> Any:  # pd.DataFrame, or with `out` a Probe
    """One row for every scored position t: p(. | tokens before t) and the token that stands at t.

    Scored are the completion tokens of samples (with `include_prompt` also the prompt's) and all
    tokens of source texts. The first token of a sequence has nothing before it, so nothing predicts
    it and it has no row. Columns: design, "Probe table"; rows in the order of `texts`; `position`
    counts from the sequence's first token; `rank` counts from 1; nats.

    A sequence longer than `max_length` or the model's context is cut, which is said on stderr and
    counted: `frame.attrs["truncated"]`, or the record's `truncated`. The distribution is over all
    rows of the model's output layer, padding rows included: the model does put mass there.

    With `out` the table goes into that folder as Parquet parts and a `Probe` comes back. A finished
    folder of the same settings is reused, an unfinished one continued; other settings are a
    `UserError` "key: old -> new". `batch_size` and `rows_per_chunk` bound memory, not results.
    """
    _at_least(1, top_k=top_k, batch_size=batch_size, rows_per_chunk=rows_per_chunk)
    _at_least(2, max_length=2 if max_length is None else max_length)
    if tokenizer is None:
        if not isinstance(model, str | Path):
            raise UserError("probe: give `tokenizer` with a model object")
        tokenizer = load_tokenizer(model)
    sequences = [encode(text, tokenizer) for text in texts]
    if include_prompt:
        sequences = [replace(sequence, begin=1) for sequence in sequences]

    def tables() -> "_Tables":
        loaded = load_model(model, dtype, device, attn) if isinstance(model, str | Path) else model
        scorer = Scorer(loaded, top_k, batch_size, rows_per_chunk, backend)
        return _Tables(scorer, tokenizer, *cut(sequences, loaded, max_length), progress)

    if out is None:
        made = tables()
        frame = pa.concat_tables([made.table(part) for part in made.parts()]).to_pandas()
        frame.attrs["truncated"] = made.truncated
        return frame
    settings = {
        "schema": SCHEMA_VERSION,
        "weights": model_identity(model),
        "texts": _digest(sequences),
        "top_k": top_k,
        "max_length": max_length,
        "include_prompt": include_prompt,
        "dtype": dtype if isinstance(model, str | Path) else str(model.dtype).split(".")[-1],
        "attn": attn,
    }
    name = str(model) if isinstance(model, str | Path) else model.name_or_path
    return _write(Path(out), settings, {"model": name, "texts": len(texts)}, tables)


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise UserError(f"{name} = {value}: must be at least {least}")


def _digest(sequences: list[Encoded]) -> str:
    """SHA-256 of what is probed: names and token ids."""
    digest = hashlib.sha256()
    for s in sequences:
        row = [s.text.sample_id, s.text.problem_id, s.text.path, s.ids, s.begin]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


@dataclass
class _Tables:
    """The probe table, part by part."""

    scorer: Scorer
    tokenizer: Any
    sequences: list[Encoded]
    truncated: int
    progress: bool

    def parts(self) -> Any:
        starts = range(0, len(self.sequences), TEXTS_PER_PART)
        parts = [self.sequences[start : start + TEXTS_PER_PART] for start in starts]
        return tqdm(parts, "probe", disable=not self.progress or not sys.stderr.isatty())

    def table(self, part: list[Encoded]) -> pa.Table:
        was_training = self.scorer.model.training
        self.scorer.model.eval()
        try:
            scores = dict(self.scorer.score(part))
        finally:
            self.scorer.model.train(was_training)
        tables = [self._rows(part[i], scores[i]) for i in sorted(scores)]
        return pa.concat_tables(tables) if tables else _schema(self.scorer.top_k).empty_table()

    def _rows(self, s: Encoded, stats: dict[str, np.ndarray]) -> pa.Table:
        is_code = s.text.kind == "source" and str(s.text.path).endswith((".py", ".pyi"))
        labels = label_tokens(
            s.ids, self.tokenizer, prompt_length=s.prompt_length, is_code=is_code
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
            **{column: stats[field] for column, field in _SCALARS.items()},
            **{
                name: pa.FixedSizeListArray.from_arrays(stats[name].ravel(), self.scorer.top_k)
                for name in ("top_ids", "top_logits")
            },
            "valid": stats["valid"],
        }
        return pa.table(columns, schema=_schema(self.scorer.top_k))


def _schema(top_k: int) -> pa.Schema:
    ids, logits = pa.list_(pa.int32(), top_k), pa.list_(pa.float32(), top_k)
    kinds = {
        **dict.fromkeys(["sample_id", "problem_id"], pa.string()),
        **dict.fromkeys(["position", "token_id"], pa.int32()),
        **dict.fromkeys(["token", "segment", "syntax"], pa.string()),
        **dict.fromkeys(_SCALARS, pa.float32()),
        **{"rank": pa.int32(), "top_ids": ids, "top_logits": logits, "valid": pa.bool_()},
    }
    return pa.schema(list(kinds.items()), metadata={"ssd_probe.schema": SCHEMA_VERSION})


def _write(out: Path, settings: dict, about: dict, tables: Callable[[], _Tables]) -> "Probe":
    """Write the parts that are not there yet, then the record that makes the folder a probe."""
    record = out / "probe.json"
    with claim(out):
        if not record.exists() and any(out.glob("part-*.parquet")):
            raise UserError(f"{out}: holds Parquet parts of something else; choose another folder")
        if record.exists():
            begin(record, settings)  # refuses other settings
            if "rows" in read_record(record):
                return Probe.load(out)
        made = tables()  # before the record: input that cannot be probed leaves none
        begin(record, settings)
        files = []
        for number, part in enumerate(made.parts()):
            files.append(out / f"part-{number:05d}.parquet")
            if files[-1].exists():
                continue
            table = made.table(part)
            with atomic_path(files[-1]) as temporary:
                pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        about |= {"dtype": str(made.scorer.model.dtype), "truncated": made.truncated}
        counts = {"parts": len(files), "rows": rows}  # `rows` says that the folder is complete
        write_json(record, {**read_record(record), **about, **counts})
    return Probe.load(out)


class Probe:
    """A finished probe folder; a column is read when it is asked for."""

    def __init__(self, path: Path, record: dict, columns: Sequence[str] | None) -> None:
        self.path, self.record, self._columns = path, record, columns

    @classmethod
    def load(cls, path: str | Path, columns: Sequence[str] | None = None) -> "Probe":
        """Open a folder; `columns` restricts `frame`. `UserError` if missing or unfinished."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such probe folder; make it with `ssd-probe probe --out`")
        if not (path / "probe.json").is_file():
            raise UserError(f"{path}: no probe.json; this is not a probe folder")
        record = read_record(path / "probe.json")
        if "rows" not in record:
            raise UserError(f"{path}: this probe is unfinished; run the same command to finish it")
        if record.get("settings", {}).get("schema") != SCHEMA_VERSION:
            raise UserError(f"{path}: another schema version than {SCHEMA_VERSION}; probe again")
        return cls(path, record, columns)

    def __len__(self) -> int:
        return self.record["rows"]

    @property
    def settings(self) -> dict:
        """What was asked for; `record` also says model, rows, truncated and provenance."""
        return self.record["settings"]

    @cached_property
    def frame(self) -> pd.DataFrame:
        return self._table(self._columns).to_pandas()

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """These columns and no others. `UserError` for an unknown name or a damaged file."""
        return self._table(names).to_pandas()

    def stats(self) -> PositionStats:
        """All rows as `PositionStats`: supports, masses, entropies under any decoding."""
        table = self._table(_STATS_COLUMNS)
        columns: dict[str, np.ndarray] = {
            _SCALARS.get(name, name): table[name].to_numpy() for name in [*_SCALARS, "valid"]
        }
        for name in ("top_ids", "top_logits"):
            flat = table[name].combine_chunks().flatten()
            columns[name] = flat.to_numpy().reshape(len(table), self.settings["top_k"])
        return PositionStats.from_columns(columns)

    def _table(self, columns: Sequence[str] | None) -> pa.Table:
        known = _schema(self.settings["top_k"]).names
        if unknown := set(columns or ()) - set(known):
            raise UserError(f"{self.path}: no column {sorted(unknown)[0]!r}; there are {known}")
        names = list(known if columns is None else columns)
        tables = []
        for number in range(self.record["parts"]):
            file = self.path / f"part-{number:05d}.parquet"
            try:
                tables.append(pq.read_table(file, columns=names, page_checksum_verification=True))
            except (OSError, pa.ArrowException) as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"{file}: missing or damaged ({reason}); probe again") from None
        table = pa.concat_tables(tables)
        if len(table) != len(self):
            raise UserError(f"{self.path}: {len(table)} rows, not {len(self)}; probe again")
        return table

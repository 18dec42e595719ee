"""A probe folder of given size without a model: what `probe` would write of random logits."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from ssd_probe.files.parts import part_file, seal
from ssd_probe.files.writing import write_json
from ssd_probe.probing.table import SCHEMA_VERSION, schema, write_table
from tests.probes import probe_of, random_logits

RANKS = 64


def store_probe(folder: Path, seed: int, parts: int = 3, rows: int = 60) -> Path:
    """`parts` of `rows` positions each, in problems of their own."""
    folder.mkdir(parents=True)
    wanted = schema(RANKS)
    for number in range(parts):
        frame = probe_of(random_logits(rows, seed=31 * number) * (1 + 0.2 * seed), ranks=RANKS)
        frame = frame.assign(
            sample_id=[f"s{number}-{i}" for i in frame["sample_id"]],
            problem_id=[f"{p}-{number}" for p in frame["problem_id"]],
            token="x ", segment="code", syntax="Name", logprob=-1.0, rank=1, padding_mass=0.0,
        )  # fmt: skip
        columns = [
            pa.FixedSizeListArray.from_arrays(np.stack(frame[field.name]).ravel(), RANKS)
            if pa.types.is_fixed_size_list(field.type)
            else pa.array(frame[field.name]).cast(field.type)
            for field in wanted
        ]
        table = pa.Table.from_arrays(columns, schema=wanted)
        seal(part_file(folder, number), lambda file, t=table: write_table(t, file), rows=rows)
    settings = {"schema": SCHEMA_VERSION, "top_k": RANKS, "pair": None}
    record = {"settings": settings, "model": "none", "tokenizer": "t", "head_rows": 150}
    write_json(folder / "probe.json", {**record, "parts": parts, "rows": parts * rows})
    return folder

"""How far a probe can be trusted: positions computed again in float64, texts scored another way."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from ssd_probe.files.claims import record_lock
from ssd_probe.files.record import read_record
from ssd_probe.files.writing import atomic_path, write_json
from ssd_probe.kernels import reference
from ssd_probe.models.heads import own_logits
from ssd_probe.probing.forward import Encoded, Scorer, in_eval
from ssd_probe.probing.pairs import PairScorer
from ssd_probe.probing.table import NOISE, Probe, rows_of, write_table
from ssd_probe.probing.writer import Maker

VERIFIED = ("logprob", "max_logit", "log_partition", "entropy", "varentropy", "tail_log_mass")
FIELDS = {"logprob": "target_logprob"}  # where the reference calls it otherwise


def verify(
    model: PreTrainedModel,
    sequences: list[Encoded],
    frames: Iterable[pd.DataFrame],
    positions: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare random positions with float64 statistics of the model's own full logits.

    Each context is run alone, without padding, through the model and its own output layer, so what
    is checked is the whole way: batches, masks, the output layer as it was read, the kernel.
    `frames`: the probe table in order, in pieces, with `VERIFIED` and `top_ids`. Gives `positions`
    (how many), `largest_error` by column (absolute, nats; inf where one is NaN), `other_top1`
    (positions whose likeliest token is another one) and `logits`, their dtype: rounding them to 16
    bits is part of the error.
    """
    ends = np.cumsum([max(0, s.end - s.begin) for s in sequences])
    total = int(ends[-1])
    chosen = np.random.default_rng(seed).choice(total, min(positions, total), replace=False)
    errors, other_top1 = dict.fromkeys(VERIFIED, 0.0), 0
    for row, values in _rows(frames, np.sort(chosen)):
        i = int(np.searchsorted(ends, row, side="right"))
        t = sequences[i].end - (ends[i] - row)
        truth = _truth(model, sequences[i].ids[: t + 1], len(values["top_ids"]))
        for name in VERIFIED:
            got, want = float(values[name]), truth[FIELDS.get(name, name)]
            same = got == want or (np.isnan(got) and np.isnan(want))
            difference = 0.0 if same else float(np.nan_to_num(abs(got - want), nan=np.inf))
            errors[name] = max(errors[name], difference)
        other_top1 += int(values["top_ids"][0] != truth["top_ids"][0])
    return {
        "positions": len(chosen),
        "largest_error": errors,
        "other_top1": other_top1,
        "logits": str(model.dtype).removeprefix("torch."),
    }


def _rows(frames: Iterable[pd.DataFrame], chosen: np.ndarray) -> Iterator[tuple[int, pd.Series]]:
    """The chosen rows of a table that comes in pieces, with their numbers in all of it."""
    start = 0
    for frame in frames:
        for row in chosen[(chosen >= start) & (chosen < start + len(frame))]:
            yield int(row), frame.iloc[int(row) - start]
        start += len(frame)


def _truth(model: PreTrainedModel, ids: list[int], top_k: int) -> dict[str, Any]:
    """float64 statistics of the distribution before the last of these ids, and of that id."""
    context = torch.tensor([ids[:-1]], device=model.device)
    last = torch.tensor([len(ids) - 2], device=model.device)
    logits = own_logits(model, context, last).double().cpu()
    stats = reference.position_stats(logits, top_k=top_k, targets=torch.tensor(ids[-1:]))
    columns = stats.to_columns()
    return {name: values[0] for name, values in columns.items()}


def scored_again(scorer: Scorer, sequences: list[Encoded]) -> list[dict[str, np.ndarray]]:
    """The fields of each sequence, scored alone; where the scorer does that anyway, in fours.

    A true difference between two models must exceed what this changes: the last bits of matrix
    products depend on the batch's shape.
    """
    other = replace(scorer, batch_size=1 if scorer.batch_size > 1 else 4)
    found: list[dict[str, np.ndarray]] = [{} for _ in sequences]
    for batch in other.batches(sequences):
        scores = other.score_batch([sequences[i] for i in batch])
        for i, columns in zip(batch, scores, strict=True):
            found[i] = columns
    return found


def record_trust(probe: Probe, load: Callable[[], Maker], verified: int, noise: int) -> None:
    """Put what was asked for, and the mass on padding rows, into a finished probe's record."""
    record = probe.record
    found: dict[str, Any] = {}
    if record["head_rows"] > record["tokens"] and "padding_mass" not in record:
        found["padding_mass"] = _padding_mass(probe)
    if verified and record.get("verified", {}).get("asked") != verified:
        made = load()
        frames = probe.batches([*VERIFIED, "top_ids"])
        with in_eval(made.scorer.models):
            found["verified"] = verify(made.scorer.model, made.sequences, frames, verified)
        found["verified"]["asked"] = verified
    if noise and record.get("noise", {}).get("asked") != noise:
        found["noise"] = {**_write_noise(probe, load(), noise), "asked": noise}
    if found:
        with record_lock(probe.path):  # two ranks may both have seen the last part
            record |= read_record(probe.path / "probe.json") | found
            write_json(probe.path / "probe.json", record)


def _padding_mass(probe: Probe) -> dict[str, float]:
    total, largest = 0.0, 0.0
    for frame in probe.batches(["padding_mass"]):
        mass = np.nan_to_num(frame["padding_mass"].to_numpy(np.float64))
        total, largest = total + float(mass.sum()), max(largest, float(mass.max(initial=0)))
    return {"mean": total / len(probe), "max": largest}


def _write_noise(probe: Probe, made: Maker, count: int, seed: int = 0) -> dict[str, Any]:
    """Write `count` random texts, scored again, beside the table; by how much they differ."""
    scorer = made.scorer.base if isinstance(made.scorer, PairScorer) else made.scorer
    scored = [i for i, s in enumerate(made.sequences) if s.begin < s.end]
    chosen = np.random.default_rng(seed).choice(scored, min(count, len(scored)), replace=False)
    sequences = [made.sequences[i] for i in np.sort(chosen)]
    with in_eval(scorer.models):
        again = scored_again(scorer, sequences)
    pieces = zip(sequences, again, strict=True)
    table = pa.concat_tables([rows_of(s, new, made.tokenizer, scorer.top_k) for s, new in pieces])
    with atomic_path(probe.path / NOISE) as temporary:
        write_table(table, temporary)
    names = {s.text.sample_id for s in sequences}
    frames = probe.batches(["sample_id", "entropy"])
    first = np.concatenate([f["entropy"][f["sample_id"].isin(names)].to_numpy() for f in frames])
    change = np.nan_to_num(np.abs(table["entropy"].to_numpy() - first))
    return {"texts": len(sequences), "entropy": float(change.max(initial=0))}

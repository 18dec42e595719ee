"""Probe a model: the statistics of its next-token distribution at every position of given texts.

Teacher forcing on token ids; batches of alike lengths; never more than a chunk of logits at a time.

    frame = probe("tiny", read_texts(["humaneval"]))          # a pandas frame
    done = probe("tiny", texts, out="runs/demo/probes/base")  # Parquet parts; resumes
    Probe.load("runs/demo/probes/base").columns(["token", "entropy"])
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from ssd_probe.errors import UserError
from ssd_probe.models.checkpoints import (
    load_model,
    load_tokenizer,
    model_identity,
    resolve_model,
    vocabulary_digest,
)
from ssd_probe.probing.forward import Encoded, Scorer, encode, fit
from ssd_probe.probing.pairs import PairScorer, require_same_tokens
from ssd_probe.probing.table import SCHEMA_VERSION, Probe
from ssd_probe.probing.trust import record_trust
from ssd_probe.probing.writer import Maker, write_folder
from ssd_probe.problems.texts import Text

__all__ = ["Probe", "probe"]


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
    too_long: Literal["truncate", "skip"] = "truncate",
    fp32_head: bool = False,
    pair: str | Path | PreTrainedModel | None = None,
    verify: int = 0,
    noise_floor: int = 0,
    revision: str | None = None,
    model_kwargs: dict[str, Any] | None = None,
    progress: bool = True,
) -> Any:  # pd.DataFrame, or with `out` a Probe
    """One row for every scored position t: p(. | tokens before t) and the token that stands at t.

    Scored are the completion tokens of samples (with `include_prompt` also the prompt's) and all
    tokens of source texts. The first token of a sequence has nothing before it, so nothing predicts
    it and it has no row. Columns: design, "Probe table"; rows in the order of `texts`; `position`
    counts from the sequence's first token; `rank` counts from 1; nats.

    A sequence longer than `max_length` or the model's context is cut there (or with `too_long`
    "skip" left out), which is said on stderr and counted: `frame.attrs["truncated"]`, or the
    record's `truncated`; likewise `invalid`, the positions whose logits are no numbers. The
    distribution is over all rows of the model's output layer, padding rows included: the model
    does put mass there.

    With `out` the table goes into that folder as Parquet parts and a `Probe` comes back. A finished
    folder of the same settings is checked and reused, an unfinished one continued; other settings
    are a `UserError` "key: old -> new". SIGTERM, Ctrl-C and a full disk raise `Resumable`. Under
    torchrun each rank makes its share of the parts, and the last to end finishes the folder.
    `batch_size` and `rows_per_chunk` bound memory; results differ by less than `noise_floor` shows.

    `pair` is a second model with the same tokens: each position gets both models' statistics and
    their divergences (see `Probe`). Base samples alone favour the base, tuned samples the tuned
    model; give texts of both, and neutral ones. `verify`: so many random positions are computed
    again (see `trust.verify`; the record's `verified`). `noise_floor`: so many texts are scored
    again in other batches, for `compare`. `revision`, `model_kwargs`: see `load_model`.
    """
    _at_least(1, top_k=top_k, batch_size=batch_size, rows_per_chunk=rows_per_chunk)
    _at_least(2, max_length=2 if max_length is None else max_length)
    _at_least(0, verify=verify, noise_floor=noise_floor)
    if out is None and (verify or noise_floor):
        raise UserError("verify and noise_floor go into a probe folder: give `out`")
    if too_long not in ("truncate", "skip"):
        raise UserError(f"too_long {too_long!r}: choose truncate or skip")
    if tokenizer is None:
        if not isinstance(model, str | Path):
            raise UserError("probe: give `tokenizer` with a model object")
        tokenizer = load_tokenizer(model, revision)
    if isinstance(pair, str | Path):
        require_same_tokens(tokenizer, load_tokenizer(pair))
    sequences = [encode(text, tokenizer) for text in texts]
    if include_prompt:
        sequences = [replace(sequence, begin=1) for sequence in sequences]

    tokens = max(tokenizer.get_vocab().values()) + 1

    def scorer(which: str | Path | PreTrainedModel, revision: str | None) -> Scorer:
        if isinstance(which, str | Path):
            which = load_model(which, dtype, device, attn, revision, **(model_kwargs or {}))
        return Scorer(which, top_k, batch_size, rows_per_chunk, backend, fp32_head, tokens)

    @functools.cache
    def load() -> Maker:
        base = scorer(model, revision)
        fitting = fit(sequences, base.model, max_length, too_long)
        both = base if pair is None else PairScorer(base, scorer(pair, None))
        return Maker(both, tokenizer, *fitting, progress)

    if out is None:
        return load().frame()
    identity, vocabulary = model_identity(model, revision), vocabulary_digest(tokenizer)
    settings = {
        "schema": SCHEMA_VERSION,
        "weights": identity,
        "texts": _digest(sequences),
        "top_k": top_k,
        "max_length": max_length,
        "include_prompt": include_prompt,
        "dtype": dtype if isinstance(model, str | Path) else str(model.dtype).split(".")[-1],
        "attn": attn,
        "too_long": too_long,
        "fp32_head": fp32_head,
        "tokenizer": vocabulary,
        "pair": None if pair is None else model_identity(pair),
        "model_kwargs": {name: str(value) for name, value in (model_kwargs or {}).items()},
    }
    about = {
        **_named(model, identity),
        "texts": len(texts),
        "tokenizer": vocabulary,
        "vocab_size": len(tokenizer),
        "tokens": tokens,
        "other_model": None if pair is None else _named(pair, "")["model"],
    }
    done = write_folder(Path(out), settings, about, load)
    if done.finished:
        record_trust(done, load, verify, noise_floor)
    return done


def _named(model: str | Path | PreTrainedModel, identity: str) -> dict:
    """The model's name, and of a hub id its commit."""
    if not isinstance(model, str | Path):
        return {"model": model.name_or_path, "revision": None}
    on_hub = isinstance(resolve_model(model), str)
    return {"model": str(model), "revision": identity if on_hub else None}


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

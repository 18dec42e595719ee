"""Probe a model: the statistics of its next-token distribution at every position of given texts.

Teacher forcing on token ids; batches of alike lengths; never more than a chunk of logits at a time.

    frame = probe("tiny", read_texts(["humaneval"]))          # a pandas frame
    done = probe("tiny", texts, out="runs/demo/probes/base")  # Parquet parts; resumes
    Probe.load("runs/demo/probes/base").columns(["token", "entropy"])
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ssd_probe.errors import UserError
from ssd_probe.files.digests import digest
from ssd_probe.models.checkpoints import load_model, load_tokenizer, named, resolve_model
from ssd_probe.models.identity import (
    Identity,
    model_identity,
    require_same_vocabulary,
    tokenizer_identity,
    vocabulary_digest,
)
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.forward import Encoded, Scorer, encode, fit
from ssd_probe.probing.pairs import PairScorer
from ssd_probe.probing.table import SCHEMA_VERSION, Probe
from ssd_probe.probing.trust import record_trust
from ssd_probe.probing.writer import Maker, write_folder
from ssd_probe.problems.texts import Text

__all__ = ["Probe", "ProbeConfig", "probe"]

Model = str | Path | PreTrainedModel


def probe(
    model: Model,
    texts: Sequence[Text],
    out: str | Path | None = None,
    config: ProbeConfig | None = None,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    pair: Model | None = None,
    pair_tokenizer: Any = None,
    progress: bool = True,
    source: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:  # pd.DataFrame, or with `out` a Probe
    """One row for every scored position t: p(. | tokens before t) and the token that stands at t.

    Scored are the completion tokens of samples (with `include_prompt` also the prompt's) and all
    tokens of source texts. The first token of a sequence has nothing before it, so nothing predicts
    it and it has no row. Columns: design, "Probe table"; rows in the order of `texts`; `position`
    counts from the sequence's first token; `rank` counts from 1; nats. `settings` are fields of
    `config`, which they change: `probe("tiny", texts, top_k=8)`.

    Texts that are too long are said on stderr and counted: `frame.attrs["truncated"]`, or the
    record's `truncated`; likewise `invalid`, the positions whose logits are no numbers. The
    distribution is over all rows of the model's output layer, padding rows included: the model
    does put mass there.

    With `out` the table goes into that folder as Parquet parts and a `Probe` comes back. A finished
    folder of the same settings is checked and reused, an unfinished one continued; other settings
    are a `UserError` "key: old -> new". SIGTERM, Ctrl-C and a full disk raise `Resumable`. Under
    torchrun each rank makes its share of the parts, and the last to end finishes the folder.

    `pair` is a second model with the same tokens: each position gets both models' statistics and
    their divergences (see `Probe`). Base samples alone favour the base, tuned samples the tuned
    model; give texts of both, and neutral ones. Model objects need their tokenizers beside them
    (`UserError`); `revision` is that of `model`, a hub id. `source`: where the texts are from, in
    words for the record.
    """
    config = replace(config or ProbeConfig(), **settings)
    if out is None and (config.verify or config.noise_floor):
        raise UserError("verify and noise_floor go into a probe folder: give `out`")
    if tokenizer is None:
        tokenizer = _tokenizer(model, revision, "tokenizer")
    if pair is not None:
        if pair_tokenizer is None:
            pair_tokenizer = _tokenizer(pair, None, "pair_tokenizer")
        require_same_vocabulary(tokenizer, pair_tokenizer)
    sequences = [encode(text, tokenizer, config.special_tokens) for text in texts]
    if config.include_prompt:
        sequences = [replace(sequence, begin=1) for sequence in sequences]
    load = _loader(model, revision, pair, tokenizer, sequences, config, progress)
    if out is None:
        return load().frame()
    identity = _identity(model, revision)
    about = {
        **_named(model, identity),
        "texts": len(texts),
        **(source or {}),
        "tokenizer": vocabulary_digest(tokenizer),
        "vocab_size": len(tokenizer),
        "tokens": _tokens(tokenizer),
        "other_model": None if pair is None else _named(pair, {})["model"],
    }
    inputs = {
        "schema": SCHEMA_VERSION,
        "model": identity | tokenizer_identity(tokenizer),
        "pair": None if pair is None else _identity(pair, None),
        "texts": digest([digest(sequence.content()) for sequence in sequences]),
    }
    chosen = config
    if not isinstance(model, str | Path) and not isinstance(pair, str | Path):
        chosen = replace(config, dtype=_dtype(model))  # nothing is loaded by `config.dtype`
    done = write_folder(Path(out), inputs | chosen.recorded(), about, load)
    if done.finished:
        record_trust(done, load, config.verify, config.noise_floor)
    return done


def _loader(
    model: Model,
    revision: str | None,
    pair: Model | None,
    tokenizer: Any,
    sequences: list[Encoded],
    config: ProbeConfig,
    progress: bool,
) -> Callable[[], Maker]:
    """A function that loads what there is to load, when first called, and once."""
    tokens = _tokens(tokenizer)

    def scorer(which: Model, revision: str | None) -> Scorer:
        if isinstance(which, str | Path):
            kind = config.dtype, config.device, config.attn
            which = load_model(which, *kind, revision, **config.model_kwargs)
        c = config
        return Scorer(
            which, c.top_k, c.batch_size, c.rows_per_chunk, c.backend, c.fp32_head, tokens
        )

    @functools.cache
    def load() -> Maker:
        base = scorer(model, revision)
        fitting = fit(sequences, base.model, config.max_length, config.too_long)
        both = base if pair is None else PairScorer(base, scorer(pair, None))
        return Maker(both, tokenizer, *fitting, progress)

    return load


def _tokenizer(model: Model, revision: str | None, name: str) -> Any:
    if not isinstance(model, str | Path):
        raise UserError(f"probe: give `{name}` with a model object")
    return load_tokenizer(model, revision)


def _tokens(tokenizer: Any) -> int:
    """Rows of the output layer from there on are no tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def _dtype(model: PreTrainedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _identity(model: Model, revision: str | None) -> Identity:
    """The model's parts, without how it would generate: nothing is generated here."""
    parts = model_identity(model, revision)
    return {name: part for name, part in parts.items() if name != "generation"}


def _named(model: Model, identity: Identity) -> dict:
    """The model's name, and of a hub id its commit."""
    if not isinstance(model, str | Path):
        return {"model": model.name_or_path, "revision": None}
    on_hub = isinstance(resolve_model(model), str)
    return {**named(model), "revision": identity.get("commit") if on_hub else None}

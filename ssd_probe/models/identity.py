"""What a model and a tokenizer are: their content, in parts, so that a record says which changed.

Of a model `weights`, `config`, `generation` (how it generates where nothing else is asked); of an
adapter its base's, and `adapter`; of a hub id the `commit` alone, which stands for all three. Of a
tokenizer `tokenizer` and `template`. Every part is a SHA-256, or None where there is none.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from ssd_probe.errors import UserError
from ssd_probe.files.digests import bytes_digest, digest, file_digest
from ssd_probe.models.checkpoints import (
    base_of,
    load_generation,
    load_model,
    load_tokenizer,
    quantised,
    skeleton,
    source_of,
    unreadable,
)
from ssd_probe.models.limits import Limits, limits_of
from ssd_probe.models.tokens import stop_ids, turn_ends
from ssd_probe.models.weights import (
    adapter_config,
    check_checkpoint,
    is_adapter,
    read_json,
    weights_digest,
)

# Who wrote a config, where it lay, and whether a cache is kept: nothing that a result depends on.
_ORIGIN = {
    *("transformers_version", "peft_version", "_name_or_path", "_commit_hash"),
    *("_from_model_config", "base_model_name_or_path", "use_cache"),
}
Identity = dict[str, str | None]


def model_identity(model: str | Path | PreTrainedModel, revision: str | None = None) -> Identity:
    """The parts of a model by name (see `load_model`), or of one in memory.

    Files are told apart by the tensors and settings in them. `UserError` as of `load_model`.
    """
    if not isinstance(model, str | Path):
        return _in_memory(model)
    source = source_of(model, revision)
    if isinstance(source, str):
        return {"commit": _commit(source, revision)}
    check_checkpoint(source)
    if is_adapter(source):
        config = adapter_config(source)
        config.pop("revision", None)  # of the base, whose parts say it
        adapter = digest([weights_digest(source), _content(config)])
        return model_identity(*base_of(source)) | {"adapter": adapter}
    generation = source / "generation_config.json"
    return {
        "weights": weights_digest(source),
        "config": digest(_content(read_json(source / "config.json"))),
        "generation": digest(_content(read_json(generation))) if generation.is_file() else None,
    }


def _in_memory(model: PreTrainedModel) -> Identity:
    tensors = [
        (name, str(tensor.dtype), tuple(tensor.shape), bytes_digest(_bytes(tensor)))
        for name, tensor in sorted(model.state_dict().items())
    ]
    config = model.config.to_json_string(use_diff=False)
    generation = getattr(model, "generation_config", None)
    asked = generation and generation.to_json_string(use_diff=False)
    return {
        "weights": digest(tensors),
        "config": digest(_content(json.loads(config))),
        "generation": digest(_content(json.loads(asked))) if asked else None,
    }


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()


def _commit(name: str, revision: str | None) -> str:
    """The commit of a hub id in the cache: the folder that its files are in."""
    try:
        file = transformers.utils.cached_file(name, "config.json", revision=revision)
    except OSError as error:
        raise unreadable(name, "model", error) from error
    return Path(str(file)).parent.name


def _content(settings: Any) -> Any:
    """Settings without who wrote them and where they lay; configs hold configs."""
    if isinstance(settings, list):
        return [_content(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    content = {key: _content(value) for key, value in settings.items() if key not in _ORIGIN}
    if "torch_dtype" in content:  # the older name
        content.setdefault("dtype", content.pop("torch_dtype"))
    return content


def tokenizer_identity(tokenizer: Tokenizer) -> Identity:
    """The parts of a loaded tokenizer, whichever files it is from.

    `tokenizer` is all that text -> ids and back depends on: vocabulary, merges, normaliser, added
    and special tokens. `template` is the chat template in use.
    """
    content = {
        "rules": _rules(tokenizer),
        "special": tokenizer.special_tokens_map,
        "clean_up": bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
        "split_special": bool(getattr(tokenizer, "split_special_tokens", False)),
    }
    template = tokenizer.chat_template
    return {
        "tokenizer": digest(content),
        "template": digest(template) if template else None,
    }


def _rules(tokenizer: Tokenizer) -> Any:
    """The tokenizers library's own account, less the state that calls leave in it.

    A tokenizer of another kind is its vocabulary's files and what was added to it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        whole = json.loads(backend.to_str())
        return {key: value for key, value in whole.items() if key not in ("truncation", "padding")}
    with TemporaryDirectory() as folder:
        files = [Path(name) for name in tokenizer.save_vocabulary(folder)]
        return [vocabulary_digest(tokenizer), sorted(file_digest(file) for file in files)]


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 over the sorted (token, id) pairs: two models may be compared where it is the same.

    Added tokens count; merges, templates and normalisers do not, because they do not change what
    a saved token id stands for.
    """
    return digest(sorted(tokenizer.get_vocab().items()))


def require_same_vocabulary(base: Tokenizer, other: Tokenizer) -> None:
    """`UserError` unless both tokenizers give every token the same id."""
    here, there = base.get_vocab(), other.get_vocab()
    if here == there:
        return
    token = min((here.items() ^ there.items()), key=lambda pair: (pair[1], pair[0]))[0]
    ids = f"{here.get(token, 'missing')} in the first, {there.get(token, 'missing')} in the second"
    raise UserError(
        f"the models have different tokens ({token!r}: {ids}), so nothing can be compared"
    )


@dataclass(frozen=True)
class Loading:
    """How a model's weights are loaded, beyond where: see `load_model`. `load_in`: 4bit or 8bit."""

    dtype: str = "auto"
    attn: str | None = None
    load_in: str | None = None

    def recorded(self) -> dict[str, Any]:
        """What is not the default."""
        return {"loading": given} if (given := {k: v for k, v in self._fields() if v}) else {}

    def _fields(self) -> list[tuple[str, str | None]]:
        dtype = None if self.dtype == "auto" else self.dtype
        return [("dtype", dtype), ("attn", self.attn), ("load_in", self.load_in)]


class Checkpoint:
    """A model by name, identified and loaded when first asked for, and once."""

    def __init__(self, name: str, device: str | None = None, loading: Loading | None = None):
        self.name, self.device, self.loading = name, device, loading or Loading()

    @cached_property
    def identity(self) -> Identity:
        """The parts of the model and of its tokenizer."""
        return model_identity(self.name) | tokenizer_identity(self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.name)

    @cached_property
    def is_chat(self) -> bool:
        """Whether it ends the turns of its chat template; not so base models that ship with one.

        A template in which no token ends a turn is taken for a chat model's.
        """
        if not self.tokenizer.chat_template:
            return False
        ends = turn_ends(self.tokenizer)
        return not ends or bool(ends & stop_ids(load_generation(self.name), self.tokenizer))

    @cached_property
    def limits(self) -> Limits:
        """What prompts and answers have to keep to, by the configs alone."""
        return limits_of(skeleton(self.name), self.tokenizer)

    @cached_property
    def model(self) -> Any:
        how = self.loading
        kwargs = quantised(how.load_in)
        return load_model(self.name, how.dtype, self.device, how.attn, **kwargs)

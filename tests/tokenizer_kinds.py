"""Tokenizers of the kinds in use, small and built offline: `tokenizer_of("metaspace")`.

Each knows the letters of `PROMPT` and `COMPLETION`; ids stay below those of `tiny_model`.
"""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, ByT5Tokenizer, PreTrainedTokenizerFast

from tests.models import CHATML

PROMPT = "def add(x, y):\n"
COMPLETION = "    a != 'é' , b\n    return x + y\n"
BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
SPECIAL = [PAD, BOS, EOS, UNK]
_LETTERS = sorted({*map(chr, range(32, 127)), "\n", "\t", "é", "▁"} - {" "})
_SPACES = ["▁▁", "▁▁▁▁"]


def _vocabulary(letters: list[str], *more: str) -> dict[str, int]:
    return {token: i for i, token in enumerate([*SPECIAL, *letters, *more])}


def _byte_level(add_prefix_space: bool = False) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "Ġ"), ("ĠĠ", "Ġ"), ("r", "e"), ("re", "t")]
    vocabulary = _vocabulary(letters, *("".join(pair) for pair in merges))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _spaces(*, prefix: bool, fallback: bool) -> Tokenizer:
    """Spaces are "▁"; with `fallback` unknown letters are bytes, as of Gemma and Llama 2."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    letters = [each for each in _LETTERS if not fallback or each not in "\n\té"]
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("r", "e"), ("re", "t"), ("▁", "ret")]
    vocabulary = _vocabulary(letters, *bytes_, *("".join(pair) for pair in merges))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=fallback, unk_token=UNK, fuse_unk=True)
    )
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] * prefix)])
    return tokenizer


def _metaspace() -> Tokenizer:
    merges = [("▁", "r"), ("e", "t")]
    vocabulary = _vocabulary(_LETTERS, *("".join(pair) for pair in merges))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _around(tokenizer: Tokenizer, template: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(BOS, 1), (EOS, 2)]
    )
    return tokenizer


def _fast(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": UNK}
    names |= {"chat_template": CHATML, **options}
    given = {name: value for name, value in names.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def _with_added_tokens() -> PreTrainedTokenizerFast:
    tokenizer = _fast(_byte_level())
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("return", lstrip=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def _slow() -> ByT5Tokenizer:
    tokenizer = ByT5Tokenizer()  # adds an end token, has no BOS
    tokenizer.chat_template = CHATML
    return tokenizer


_MAKERS = {
    "byte-level": lambda: _fast(_byte_level()),
    "byte-level, prefix space": lambda: _fast(_byte_level(add_prefix_space=True)),
    "Metaspace": lambda: _fast(_metaspace()),
    "byte-fallback": lambda: _fast(_spaces(prefix=False, fallback=True)),
    "prefix space": lambda: _fast(_spaces(prefix=True, fallback=True)),  # Llama 2
    "Llama 2": lambda: _fast(_around(_spaces(prefix=True, fallback=True), f"{BOS} $A")),
    "adds BOS": lambda: _fast(_around(_byte_level(), f"{BOS} $A")),
    "adds EOS": lambda: _fast(_around(_byte_level(), f"{BOS} $A {EOS}")),
    "no pad": lambda: _fast(_byte_level(), pad_token=None),
    "left padding": lambda: _fast(_byte_level(), padding_side="left"),
    "added tokens": _with_added_tokens,
    "clean-up flag": lambda: _fast(
        _byte_level(), clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "template with BOS": lambda: _fast(
        _around(_byte_level(), f"{BOS} $A"), chat_template="{{ bos_token }}" + CHATML
    ),
    "slow": _slow,
}  # fmt: skip
KINDS = tuple(_MAKERS)


@cache
def tokenizer_of(kind: str) -> Any:
    return _MAKERS[kind]()

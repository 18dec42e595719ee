"""What each token is part of: prompt, thinking, text or code, and which node of Python's syntax.

Everything is worked out on bytes, because one character may span several tokens and because `ast`
gives columns in UTF-8 bytes. A label is painted over the bytes of a span, outer spans first; a
token then takes the label under its first byte that is not white space.
"""

import ast
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ssd_probe.models.tokens import decode, special_ids

SEGMENTS = ("text", "code", "thinking", "special", "prompt")
UNPARSED = "unparsed"  # lower case: no node type is called that
_TEXT, _CODE, _THINKING = range(3)

# A cut-off answer has no closing tag. The second form is GPT-OSS's analysis channel.
_THOUGHTS = (
    re.compile(rb"<think>.*?(?:</think>|\Z)", re.DOTALL),
    re.compile(rb"<\|channel\|>analysis<\|message\|>.*?(?:<\|end\|>|\Z)", re.DOTALL),
)
# Possessive marks: a model stuck on backticks would else cost the square of their number.
_FENCE = re.compile(
    rb"^[ \t]*+(?P<mark>`{3,}+|~{3,}+)[ \t]*+(?P<language>\w*+)[^\n]*+\n"
    rb"(?P<body>.*?)(?:^[ \t]*(?P=mark)[ \t]*\r?$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_STRAY = re.compile("[\udc80-\udcff]")  # a byte that is no part of a character
_PYTHON = {b"python", b"python3", b"py"}


@dataclass(frozen=True)
class TokenLabels:
    """Parallel lists, one entry a token."""

    token: list[str]
    segment: list[str]
    syntax: list[str]


def label_tokens(
    ids: Sequence[int], tokenizer: Any, *, prompt_length: int = 0, is_code: bool = False
) -> TokenLabels:
    """Text, segment and innermost syntax node of every token.

    `segment`: `prompt` for the first `prompt_length` tokens; `special` for special tokens;
    `thinking` inside `<think>...</think>` or GPT-OSS's analysis channel; else `code` or `text`.
    Code is what stands in a Markdown Python fence. Without any fence all of the completion is code
    if it parses, alone or as the continuation of its prompt (HumanEval); if the prompt leaves off
    in a function or class; or if `is_code` says so, as for a .py file.

    `syntax`: the `ast` node type name ("Call", "Name", "FunctionDef"; "Module" between statements)
    where code parses, `UNPARSED` where it does not, "" outside of code. A token that holds a part
    of a character is shown as U+FFFD.
    """
    pieces = token_bytes(ids, tokenizer)
    starts = [0, *accumulate(map(len, pieces))]
    raw = b"".join(pieces)
    plain = bytearray(raw)
    special = special_ids(tokenizer)
    for start, piece, token in zip(starts, pieces, ids, strict=False):
        if token in special:
            _blank(plain, start, start + len(piece))

    segment, syntax, names = _paint(raw, plain, starts[prompt_length], is_code)
    labels = TokenLabels([], [], [])
    for i, (token, piece) in enumerate(zip(ids, pieces, strict=True)):
        at = _first_visible(raw, starts[i], starts[i + 1])
        here = "special" if token in special else SEGMENTS[segment[at]]
        labels.token.append(piece.decode("utf-8", "replace"))
        labels.segment.append("prompt" if i < prompt_length else here)
        labels.syntax.append("" if here in ("special", "thinking") else names[syntax[at]])
    return labels


def _blank(plain: bytearray, begin: int, end: int) -> None:
    """Hide a span from the search for fences and from `ast`; offsets stay."""
    plain[begin:end] = b"\n" * (end - begin)


def _first_visible(raw: bytes, start: int, end: int) -> int:
    """The offset of the token's first byte that is not white space, or of its first byte."""
    stripped = raw[start:end].lstrip()
    return end - len(stripped) if stripped else start


def _paint(
    raw: bytes, plain: bytearray, start: int, is_code: bool
) -> tuple[bytes, bytes, list[str]]:
    """Codes of every byte: its segment in `SEGMENTS`, its syntax in the list that comes with it.

    The completion begins at byte `start`. One entry more, for tokens without bytes at the end.
    """
    segment, syntax = np.zeros((2, len(raw) + 1), np.uint8)
    codes = {"": 0, UNPARSED: 1}  # `ast` has some 110 node types
    worded = bytearray(raw)
    for begin, end in () if is_code else _thinking_spans(raw, start):
        segment[begin:end] = _THINKING
        _blank(plain, begin, end)
        _blank(worded, begin, end)
    for begin, end, nodes in _code_spans(_readings(plain, worded), start, is_code):
        visible = segment[max(begin, start) : end]
        visible[visible == _TEXT] = _CODE
        for left, right, name in [(0, end - begin, UNPARSED)] if nodes is None else nodes:
            syntax[begin + left : begin + right] = codes.setdefault(name, len(codes))
    return segment.tobytes(), syntax.tobytes(), list(codes)


def _thinking_spans(raw: bytes, start: int) -> Iterator[tuple[int, int]]:
    completion = raw[start:]
    first, close = completion.find(b"<think>"), completion.find(b"</think>")
    if close < 0 and raw[:start].rstrip().endswith(b"<think>"):
        yield start, len(raw)
        return
    if close >= 0 and (first < 0 or close < first):  # the prompt opened it (Qwen3-Thinking)
        yield start, start + close + len(b"</think>")
    for pattern in _THOUGHTS:
        for match in pattern.finditer(completion):
            yield start + match.start(), start + match.end()


Node = tuple[int, int, str]  # begin, end (bytes), type name


def _readings(plain: bytearray, worded: bytearray) -> list[bytes]:
    """The text with what is hidden as line ends, with special tokens as letters, and as spaces.

    So one odd token, say within a string, does not cost a file its syntax.
    """
    hidden = np.frombuffer(plain, np.uint8) != np.frombuffer(worded, np.uint8)
    spaced = np.where(hidden, ord(" "), np.frombuffer(plain, np.uint8)).astype(np.uint8)
    return list(dict.fromkeys([bytes(plain), bytes(worded), spaced.tobytes()]))


def _code_spans(
    texts: list[bytes], start: int, is_code: bool
) -> Iterator[tuple[int, int, list[Node] | None]]:
    """`(begin, end, nodes)` of each piece of code; nodes is None where it does not parse.

    `texts`: readings of the same bytes; the first one that parses counts.
    """

    def parsed(begin: int, end: int | None = None) -> list[Node] | None:
        pieces = (_with_ends_of(texts[0][begin:end], text[begin:end]) for text in texts)
        whole = (piece if end else _flush(piece) for piece in pieces)
        return next((nodes for piece in whole if (nodes := parse_nodes(piece))), None)

    text = texts[0]
    completion = text[start:]
    fences = [] if is_code else list(_FENCE.finditer(completion))
    for fence in fences:
        nodes = parsed(start + fence.start("body"), start + fence.end("body"))
        if fence["language"].lower() in _PYTHON or (not fence["language"] and nodes):
            begin, end = fence.span("body")
            yield start + begin, start + end, nodes
    if fences or not completion.strip():
        return
    nodes = parsed(start)
    if nodes is not None or is_code:
        yield start, len(text), nodes
    elif start and (joined := parsed(0)) is not None:
        yield 0, len(text), joined
    elif _leaves_off_in_code(_flush(text[:start])):
        yield start, len(text), None


def _with_ends_of(plain: bytes, reading: bytes) -> bytes:
    """Special tokens before and after a text are no part of it, however those within are read."""
    if plain == reading:
        return reading
    same = [i for i, (p, r) in enumerate(zip(plain, reading, strict=True)) if p == r > ord(" ")]
    first, last = (same[0], same[-1] + 1) if same else (len(plain), len(plain))
    return plain[:first] + reading[first:last] + plain[last:]


def _flush(text: bytes) -> bytes:
    """Without the space that a tokenizer puts before all text; offsets stay."""
    at = len(text) - len(text.lstrip(b"\n"))
    return text[:at] + b"\n" + text[at + 1 :] if text[at : at + 1] == b" " else text


def _leaves_off_in_code(prompt: bytes) -> bool:
    """Whether the prompt is Python whose last statement is a function or a class."""
    tree = _parse(prompt)
    last = tree.body[-1] if tree and tree.body else None
    return isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _parse(source: bytes) -> ast.Module | None:
    text = _STRAY.sub("?", source.decode("utf-8", "surrogateescape"))  # as many bytes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: invalid escapes in probed code
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parse_nodes(source: bytes) -> list[Node] | None:
    """Spans of the syntax nodes in byte offsets, outer before inner; None if it does not parse.

    An f-string is one node: Python before 3.12 gives wrong positions for what is inside.
    """
    tree = _parse(source)
    if tree is None:
        return None
    lines = [0] + [match.end() for match in re.finditer(rb"\r\n|\r|\n", source)]
    nodes: list[Node] = [(0, len(source), "Module")]
    level: list[ast.AST] = [tree]
    while level:  # breadth first
        children = [
            child
            for node in level
            if not isinstance(node, ast.JoinedStr)
            for child in ast.iter_child_nodes(node)
        ]
        for node in children:
            if isinstance(node, ast.expr | ast.stmt | ast.excepthandler | _EXTRA):
                begin = lines[node.lineno - 1] + node.col_offset
                end = lines[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
                nodes.append((begin, end, type(node).__name__))
        level = children
    return nodes


_EXTRA = ast.arg | ast.keyword | ast.alias | ast.pattern  # the other node types with a position


def token_bytes(ids: Sequence[int], tokenizer: Any) -> list[bytes]:
    """The bytes each token stands for; joined, they are the text that the ids decode to.

    Exact for byte-level BPE (GPT-2's byte alphabet: Qwen, Llama 3, GPT-OSS). Other tokenizers are
    decoded step by step, where all bytes of a character belong to its last token.
    """
    if _is_byte_level(tokenizer):
        added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        tokens = tokenizer.convert_ids_to_tokens(list(ids))
        return [
            added[i].encode() if i in added else _from_byte_alphabet(token)
            for i, token in zip(ids, tokens, strict=True)
        ]
    return _stepwise_bytes(ids, lambda part: decode(tokenizer, part))


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "decoder", None)).__name__ == "ByteLevel"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable Latin-1 is itself, the others follow U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _from_byte_alphabet(token: str | None) -> bytes:
    """A padding row of the head has no token: no bytes."""
    return bytes(_ALPHABET[letter] for letter in token or "" if letter in _ALPHABET)


def _stepwise_bytes(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[bytes]:
    """What each further token adds to the decoded text, in a window so that cost stays linear.

    A window starts a few tokens back, because a tokenizer may treat the first token differently
    (a leading space). Text that ends in U+FFFD is a character still to be completed.
    """
    pieces: list[bytes] = []
    window, done = 0, 0  # tokens [window, done) are decoded and handed out
    for i in range(len(ids)):
        before = decode(list(ids[window:done]))
        now = decode(list(ids[window : i + 1]))
        if now.endswith("\ufffd") and i + 1 < len(ids) and i - done < 4:
            pieces.append(b"")
            continue
        pieces.append(now[len(before) :].encode())
        window, done = done, i + 1
    return pieces

"""Labels of tokens: exact bytes, segments, and the innermost syntax node."""

import textwrap
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssd_probe.probing.syntax import UNPARSED, label_tokens, parse_nodes, token_bytes
from ssd_probe.problems.texts import read_texts
from tests.models import tiny_tokenizer


def labelled(prompt: str, completion: str, **options):
    """(token, segment, syntax) of each token that is not white space."""
    tokenizer = tiny_tokenizer()
    head = tokenizer(prompt).input_ids
    ids = head + tokenizer(completion).input_ids
    labels = label_tokens(ids, tokenizer, prompt_length=len(head), **options)
    rows = zip(labels.token, labels.segment, labels.syntax, strict=True)
    return [row for row in rows if row[0].strip()]


def joined(rows, segment):
    return "".join(token.strip() for token, part, _ in rows if part == segment)


TRICKY = "é 😀 \u200b naïve\r\n\tx<|im_end|><think>日本\ud7ff"


def test_byte_level_tokens_are_exact_bytes():
    tokenizer = tiny_tokenizer()
    ids = tokenizer(TRICKY).input_ids
    pieces = token_bytes(ids, tokenizer)
    assert b"".join(pieces).decode() == TRICKY == tokenizer.decode(ids)
    assert len(pieces) > len(TRICKY) / 2 and all(pieces)
    assert token_bytes([500], tokenizer) == [b""]  # a padding row of the head


def test_other_tokenizers_are_decoded_step_by_step():
    letters = {token: i for i, token in enumerate(["▁", "a", "b", "<unk>"])}
    letters |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(letters, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    ids = fast("ab é a😀 b", add_special_tokens=False).input_ids
    pieces = token_bytes(ids, fast)
    assert b"".join(pieces).decode() == "ab é a😀 b"
    assert [piece.decode() for piece in pieces if piece.strip()] == list("abéa😀b")


def test_syntax_is_the_innermost_node():
    rows = labelled("", "def f(a=1):\n    # note\n    return print(a + 2)\n")
    assert {segment for _, segment, _ in rows} == {"code"}
    characters = [(letter, syntax) for token, _, syntax in rows for letter in token.strip()]
    source = "".join(letter for letter, _ in characters)
    expected = {"def": "FunctionDef", "a=": "arg", "1": "Constant", "#note": "FunctionDef",
                "return": "Return", "print": "Name", "(a+": "Call", "+2": "BinOp"}  # fmt: skip
    assert {word: characters[source.index(word)][1] for word in expected} == expected


def test_node_spans_are_byte_offsets_on_every_kind_of_line_end():
    source = "x = 'é😀'; y = 1\r\nz = f'{x}'\ntry:\n  pass\nexcept E as e:\n  g(k=1)\n".encode()
    spans = {(source[a:b], name) for a, b, name in parse_nodes(source)}
    assert {("'é😀'".encode(), "Constant"), (b"y", "Name"), (b"f'{x}'", "JoinedStr")} <= spans
    assert {(b"k=1", "keyword"), (b"except E as e:\n  g(k=1)", "ExceptHandler")} <= spans


@pytest.mark.parametrize("source", ["def", "\0", "(" * 5000, "x = '\\d'", "-" * 90000 + "1"])
def test_parsing_never_raises_nor_warns(source):
    assert (parse_nodes(source.encode()) is None) == (source != "x = '\\d'")


def test_standard_library_source_is_all_code_with_syntax():
    source = Path(textwrap.__file__).read_text()
    rows = labelled("", source, is_code=True)
    assert all(segment == "code" and syntax for _, segment, syntax in rows)
    cut = labelled("", source[:2000], is_code=True)  # ends inside a string
    assert all(row[1:] == ("code", UNPARSED) for row in cut)


def test_fences_thinking_and_special_tokens():
    rows = labelled(
        "<|im_start|>user\nhi<|im_end|>\n",
        "<think>\n```python\nno\n```\n</think>\nHere:\n```python\ny = 1\n```\nand\n```\n"
        "no code here\n```\n```js\nz\n```<|im_end|>",
    )
    assert joined(rows, "prompt") == "<|im_start|>userhi<|im_end|>"
    assert joined(rows, "thinking") == "<think>```pythonno```</think>"
    assert joined(rows, "code") == "y=1"
    assert joined(rows, "special") == "<|im_end|>"
    assert joined(rows, "text").startswith("Here:```python```and```nocodehere")
    assert {syntax for _, segment, syntax in rows if segment != "code"} == {""}
    assert {syntax for _, segment, syntax in rows if segment == "code"} == {
        "Assign", "Constant", "Name",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "completion", "thinking", "code"),
    [
        ("<think>\n", "so</think>x = 1", "so</think>", "x=1"),  # opened by the prompt
        ("<think>\n", "so on", "soon", ""),  # cut off
        ("", "<think>so on", "<think>soon", ""),
        ("", "```python\nx = (", "", "x=("),  # a fence that was cut off
        ("", "```\nx = 1\n```", "", "x=1"),  # no language, but it parses
        ("", "I think so.", "", ""),
        ("", "<|im_start|>x = 1<|im_end|>", "", "x=1"),
        ("def f():\n", "    return 1\n", "", "return1"),  # parses only with its prompt
    ],
)
def test_segments_of_completions(prompt, completion, thinking, code):
    rows = labelled(prompt, completion)
    assert joined(rows, "thinking") == thinking
    assert joined(rows, "code") == code


STUB = 'def f(x):\n    """Doc."""\n'


@pytest.mark.parametrize(
    ("prompt", "completion", "unparsed", "text"),
    [
        ("", "So:\n```python\nx = (\n```\n", "x=(", "So:```python```"),
        ("", "```\nx = (\n```\n", "", "```x=(```"),  # no language: nobody says that it is code
        ("", "```python\nx = 1\n```\n```py\ny = (", "y=(", "```python``````py"),
        ("", "x = (", "", "x=("),
        (STUB, "    return (x", "return(x", ""),  # HumanEval, cut off
        (STUB, "    return x", "", ""),
        ("<|im_start|>user\n" + STUB + "<|im_end|>\nassistant\n", "No.", "", "No."),
        ("x = 1\n", "and so on", "", "andsoon"),
    ],
)
def test_code_that_does_not_parse_says_so(prompt, completion, unparsed, text):
    rows = labelled(prompt, completion)
    assert "".join(token.strip() for token, _, syntax in rows if syntax == UNPARSED) == unparsed
    assert joined(rows, "text") == text
    assert {part for _, part, syntax in rows if syntax == UNPARSED} <= {"code"}


def test_human_eval_prompts_leave_off_in_code():
    for text in read_texts("humaneval")[:20]:
        rows = labelled(text.prompt, text.completion[:-4] + "(((")
        assert {row[1:] for row in rows if row[1] != "prompt"} == {("code", UNPARSED)}


@pytest.mark.parametrize(
    "text",
    ["`" * 100_000, "~" * 100_000, " " * 100_000 + "`", "```python\n" + "`\n" * 30_000,
     "<think>" * 20_000, "</think>" * 20_000, "if x:\n  y\n" + "elif x:\n  y\n" * 8000,
     "x = 1\n" * 20_000],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_stuck_models_cost_linear_time(text):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, verbose=False).input_ids
    start = time.process_time()
    label_tokens(ids, tokenizer)
    assert time.process_time() - start < 5  # the square would be minutes


def test_tags_in_source_code_are_code():
    rows = labelled("", "x = '<think>'\n", is_code=True)
    assert joined(rows, "code") == "x='<think>'"

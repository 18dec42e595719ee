"""The Python blocks that stand between the fences of a chat answer."""

import io
import re
from collections.abc import Iterator
from typing import Any

_PYTHON = ("", "python", "py", "python3")  # what may stand after the fence that opens a block


def extract_code(answer: str, entry: str = "") -> str:
    """The last Python block that defines `entry`, or else the last; without one the whole answer.

    Fences are ``` or ~~~ (CommonMark): lines of at most three spaces, or of the indentation of the
    list item that holds them, and then the mark, so that one inside the docstring of a completed
    function is none. A block that is not closed, as in an answer cut short, counts where it defines
    `entry`.
    """
    blocks = list(_blocks(answer))
    defining = [block for block, _ in blocks if entry and defines(block, entry)]
    return (defining or [block for block, closed in blocks if closed] or [answer])[-1]


def defines(code: str, name: str) -> bool:
    """Whether the source has a function of that name at top level."""
    return re.search(rf"^(async +)?def +{re.escape(name)}\b", code, re.MULTILINE) is not None


_FENCE = re.compile(r"( *)(`{3,}|~{3,})([^`]*)$")
_ITEM = re.compile(r"( *)(?:[-*+]|\d{1,9}[.)]) +")  # of a list
# `python`, `{python}`, `{.python}`, `python title="a.py"`; nothing in `title="a.py"`.
_LANGUAGE = re.compile(r"\s*\{?\s*\.?((?:[\w+#-]+(?![\w+#-]*=))?)")


def _language(said: str) -> str:
    found: Any = _LANGUAGE.match(said.lower())  # always something, if only ""
    return found[1]


def _blocks(answer: str) -> Iterator[tuple[str, bool]]:
    """Python blocks and whether they are closed. A fence that names a language opens a block."""
    block: list[str] | None = None
    mark, indent, inside, python = "", 0, 0, False  # inside: the list item's indentation
    for line in io.StringIO(answer):
        fence: Any = _FENCE.match(line.rstrip())
        if block is None:
            inside = _item_indent(line, inside)
        else:
            same = fence and fence[2][0] == mark[0] and len(fence[1]) <= indent + 3
            if not same or not (fence[3] or len(fence[2]) >= len(mark)):
                block.append(_outdented(line, indent))
                continue
            if python:
                yield "".join(block), not fence[3]
            if not fence[3]:
                block = None
                continue
        if fence and len(fence[1]) <= inside + 3:
            block, mark, indent = [], fence[2], len(fence[1])
            python = _language(fence[3]) in _PYTHON
    if block is not None and python:
        yield "".join(block), False


def _item_indent(line: str, inside: int) -> int:
    """Where the text of the list item that `line` is in begins; 0 outside lists."""
    item = _ITEM.match(line)
    if item and len(item[1]) <= inside + 3:
        return item.end()
    return inside if not line.strip() or line.startswith(" " * inside) else 0


def _outdented(line: str, indent: int) -> str:
    """Without the indentation of its fence, as much of it as there is."""
    return line[min(indent, len(line) - len(line.lstrip(" "))) :]

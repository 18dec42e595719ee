"""What a command ends with on a terminal: sentences, tables, doubts, in 100 columns."""

import textwrap
from collections.abc import Callable, Iterable
from typing import NamedTuple

WIDTH = 100  # columns of a terminal
_TIED = "\N{NO-BREAK SPACE}"
Paint = Callable[[str, str], str]  # (line, kind): kind "sentence", "doubt" or "rest"


def filled(sentences: Iterable[str], before: str = "") -> list[str]:
    """Sentences as lines of at most `WIDTH` columns, no number apart from its "%"."""
    return [
        line.replace(_TIED, " ")
        for each in sentences
        for line in textwrap.wrap(
            before + each.replace(" %", f"{_TIED}%"), WIDTH, subsequent_indent="  "
        )
    ]


class Told(NamedTuple):
    """`sentences`: what a person wants first. `hints`: where there is more."""

    sentences: list[str]
    tables: list[str] = []
    doubts: list[str] = []
    hints: list[str] = []
    title: str = ""

    def __str__(self) -> str:
        return self.text()

    def text(self, paint: Paint = lambda line, kind: line) -> str:
        """All of it; `paint` may put colours around whole lines."""
        parts = [
            [paint(self.title, "rest")] if self.title else [],
            [paint(line, "sentence") for line in filled(self.sentences)],
            *([paint(line, "rest") for line in table.splitlines()] for table in self.tables),
            [paint(line, "doubt") for line in filled(self.doubts, "note: ")]
            + [paint(line, "rest") for line in self.hints],
        ]
        return "\n\n".join("\n".join(part) for part in parts if part)

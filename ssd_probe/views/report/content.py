"""What a report is made of: sections of prose, tables, figures and commands, in reading order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pandas as pd

from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_utf8

MOST_ROWS = 120  # of a table in the page; longer ones are named by their file


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Notes:
    """Sentences, one below the other; `doubtful` ones are marked as such."""

    lines: list[str]
    doubtful: bool = False
    kind: ClassVar[str] = "notes"


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: list[str]
    kind: ClassVar[str] = "commands"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean; a table's cell of that name leads there."""

    words: dict[str, str]
    kind: ClassVar[str] = "terms"


@dataclass(frozen=True)
class Table:
    """A frame of text and numbers with its caption; `folded`: shown when asked for.

    printed: on paper also where it is folded.
    """

    caption: str
    frame: pd.DataFrame
    folded: bool = False
    printed: bool = False
    kind: ClassVar[str] = "table"

    @property
    def cells(self) -> list[list[str]]:
        return [[_cell(value) for value in row] for row in self.frame.to_numpy(object)]

    @property
    def numeric(self) -> list[bool]:
        """Of each column."""
        return [pd.api.types.is_numeric_dtype(kind) for kind in self.frame.dtypes]


@dataclass(frozen=True)
class Changed:
    """A position that changed: its text before, and the leading tokens of both models."""

    text: str
    position: int
    label: str
    change: float
    context: str
    token: str
    before: list[tuple[str, float]]  # token, probability
    after: list[tuple[str, float]]
    link: str | None  # of the viewer below, where it shows this text
    like: list[tuple[str, int, str | None]] = field(default_factory=list)  # text, position, link
    kind: ClassVar[str] = "changed"


@dataclass(frozen=True)
class Figure:
    """A vector graphic with its caption, and the numbers that it draws."""

    caption: str
    svg: str
    numbers: Table | None = None
    elsewhere: str = ""  # where the numbers are, if not here
    kind: ClassVar[str] = "figure"

    @classmethod
    def load(cls, stem: Path) -> "Figure":
        """Of the files that `figures.saving` wrote: STEM.svg, .txt, and .csv if there is one.

        A caption's further paragraphs, what to distrust, are said elsewhere in a report.
        `UserError` for a file that is damaged, or a figure without a caption.
        """
        svg, caption, numbers = (
            stem.with_name(stem.name + end) for end in (".svg", ".txt", ".csv")
        )
        told = read_utf8(caption).partition("\n\n")[0].strip()
        drawn, table, elsewhere = read_utf8(svg), None, ""
        if not drawn.rstrip().endswith("</svg>"):
            raise UserError(f"{svg}: damaged; draw it again (`ssd-probe figures`, or `compare`)")
        if not told:
            raise UserError(f"{caption}: empty; draw the figure again")
        if numbers.is_file():
            frame = _numbers(numbers)
            if len(frame) <= MOST_ROWS:
                table = Table("Numbers of this figure", frame, folded=True)
            else:
                elsewhere = f"its {len(frame)} rows of numbers are in {numbers.name}"
        return cls(told, drawn, table, elsewhere)


Block = Prose | Notes | Commands | Terms | Table | Figure | Changed


@dataclass
class Section:
    """A reader's question and what answers it."""

    name: str  # of its place in the page
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Report:
    """`answers`: the few sentences that a reader wants first."""

    title: str
    subtitle: str
    answers: list[str]
    sections: list[Section]

    @property
    def words(self) -> set[str]:
        """Those that the page says the meaning of."""
        blocks = (block for section in self.sections for block in section.blocks)
        return {word for block in blocks if isinstance(block, Terms) for word in block.words}


def _numbers(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=False)
    except ValueError as error:  # pandas' are, and those of the text's encoding
        what = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({what}); draw the figures again") from None


def _cell(value: object) -> str:
    """Numbers with four digits; nothing where there is no value."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

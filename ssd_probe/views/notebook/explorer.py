"""The token viewer as a widget, and its selection as rows."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import traitlets

from ssd_probe.errors import UserError
from ssd_probe.views.blocks import Names, pack
from ssd_probe.views.notebook.library import Library
from ssd_probe.views.notebook.pictures import text_picture
from ssd_probe.views.notebook.widget import Widget
from ssd_probe.views.page import VIEWER, About, meta_of, script

CARRIED = 2_000_000  # bytes of a first text that go along with the widget, into notebooks too


class Explorer(Widget):
    """The token viewer of a probe, or of two of the same texts.

    `selected`: the rows that are selected in it. `show`: select from Python. `selection`: the
    trait behind both, {text, position, first, last}, for `observe`.
    """

    _esm = script((*VIEWER, "asking", "explorer"))
    selection = traitlets.Dict(help="of the view; empty before the first").tag(sync=True)

    def __init__(
        self, library: Library, about: About, names: Callable[[], Names], ranks: int, **traits: Any
    ) -> None:
        """names: makes an empty collection of what ids stand for; ranks: sent a position."""
        self._library, self._about, self._names = library, about, names
        self._ranks = min(ranks, library.probe.settings["top_k"])
        texts = [{"name": name, "rows": rows} for name, rows in library.lengths.items()]
        data: dict[str, Any] = {"meta": meta_of(about, self._ranks) | {"texts": texts}}
        content, block = self._text(0)
        if len(block) <= CARRIED:
            data["first"] = content | {"block": block}
        super().__init__(data=data, **traits)
        self.on_msg(self._asked)

    @property
    def selected(self) -> pd.DataFrame:
        """The selected positions: rows of `Probe.frame`, with its index; none before a selection.

        Of two probe folders those of both, told apart by the column `model`: "base" or "tuned".
        """
        chosen = self.selection
        return self._library.rows(
            chosen.get("text", ""), chosen.get("first", 0), chosen.get("last", -1)
        )

    def show(self, sample_id: str, first: int, last: int | None = None) -> None:
        """Select the positions from `first` to `last`, as the column `position` has them.

        Errors: `UserError` where the text has no such positions.
        """
        first, last = int(first), int(first if last is None else last)
        rows = self._library.rows(sample_id, first, last)
        if not {first, last} <= set(rows["position"]):
            raise UserError(f"{sample_id}: no text with scored positions {first} and {last}")
        self.selection = {"text": sample_id, "position": last, "first": first, "last": last}

    def _asked(self, _widget: Any, content: dict[str, Any], _buffers: Sequence[Any]) -> None:
        """Send the text that the view asks for."""
        try:
            found, block = self._text(content["text"])
        except UserError as error:  # its folder may be gone
            found, block = {"error": str(error)}, b""
        self.send(found | {"id": content["id"]}, [block])

    def _text(self, number: int) -> tuple[dict[str, Any], bytes]:
        """The names of a text's ids, and its block."""
        text, names = self._library[number], self._names()
        names.add(text, self._ranks)
        return names.table(), pack(text, self._ranks)

    def drawing(self) -> str:
        return text_picture(self._library[0], self._about)

    def __str__(self) -> str:
        return f"Explorer of {self._about.title}: {len(self._library)} texts"

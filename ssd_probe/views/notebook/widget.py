"""A view as a Jupyter widget: its code, what it asks for, and its picture where no kernel is."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import anywidget
import traitlets

from ssd_probe.errors import UserError
from ssd_probe.views.page import style


class Widget(anywidget.AnyWidget):
    """What the widgets share. They hold no data: the browser asks, `answer` gives.

    In its cell stands a picture before the widget, in an output of its own, since JupyterLab shows
    nothing else of an output whose widget is gone. The open widget hides it.
    """

    _css = style()
    height = traitlets.Int(640, help="of the view, in CSS pixels").tag(sync=True)
    picture = traitlets.Unicode(help="the class of the picture's element").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(picture=f"ssd-probe-{uuid4().hex}", **traits)
        self.on_msg(self._asked)

    def answer(self, asked: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        """What the browser gets for `asked`: JSON, and bytes."""
        raise NotImplementedError

    def drawing(self) -> str:
        """The picture, as HTML without scripts."""
        raise NotImplementedError

    def _asked(self, _widget: Any, content: dict[str, Any], _buffers: Sequence[Any]) -> None:
        try:
            found, buffers = self.answer(content)
        except UserError as error:
            found, buffers = {"error": str(error)}, []
        self.send(found | {"id": content.get("id")}, buffers)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        note = "A picture: run this cell for the live view."
        html = f'<div class="{self.picture}">{self.drawing()}<p><small>{note}</small></p></div>'
        display({"text/html": html, "text/plain": note}, raw=True)
        display({**(self._repr_mimebundle_() or [{}])[0], "text/plain": str(self)}, raw=True)

"""A view as a Jupyter widget, with a picture beside it for where no kernel is."""

from typing import Any
from uuid import uuid4

import anywidget
import traitlets

from ssd_probe.views.page import style

NOTE = "A picture: run this cell for the live view."
# Hides JupyterLab's "Loading widget..." or "model not found", which stands there instead of a view.
_NO_COMPLAINT = (
    "<style>.jp-OutputArea-child:has(.%s) + .jp-OutputArea-child > .jp-OutputArea-output"
    ":not(:has(*)) { display: none }</style>"
)


class Widget(anywidget.AnyWidget):
    """What the widgets share: `data` to begin with, a height, and a picture.

    The data go along with the widget: a kernel that is busy with other cells answers no question.
    In its cell stands the picture first, in an output of its own, since JupyterLab shows nothing
    else of an output whose widget is gone. The open view hides it.
    """

    _css = style()
    data = traitlets.Dict(help="what the view begins with").tag(sync=True)
    height = traitlets.Int(640, help="of the view, in CSS pixels").tag(sync=True)
    picture = traitlets.Unicode(help="the class of the picture's element").tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(picture=f"ssd-probe-{uuid4().hex}", **traits)

    def drawing(self) -> str:
        """The picture, as HTML without scripts."""
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        from IPython.display import display

        html = f'<div class="{self.picture}">{self.drawing()}<p><small>{NOTE}</small></p></div>'
        html += _NO_COMPLAINT % self.picture
        display({"text/html": html, "text/plain": NOTE}, raw=True)
        bundle, about = self._repr_mimebundle_() or ({}, {})  # `about`: what Colab has to load
        display({**bundle, "text/plain": str(self)}, raw=True, metadata=about)

"""Probes in Jupyter: `explore` shows their tokens, `sliders` what a decoding leaves of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssd_probe.commands.pictures.view import described
from ssd_probe.errors import UserError
from ssd_probe.probing.table import Probe

if TYPE_CHECKING:
    from ssd_probe.views.notebook.explorer import Explorer
    from ssd_probe.views.notebook.sliders import Sliders

SOME = 4_000  # positions of `sliders`: more are slower to draw, and hardly change a mean


def explore(
    probe: Probe | str | Path,
    other: Probe | str | Path | None = None,
    *,
    ranks: int = 20,
    height: int = 640,
) -> "Explorer":
    """The token viewer of a probe in a notebook; with `other`, of both models on the same texts.

        viewer = explore("probes/base", "probes/tuned")
        viewer                # a cell of its own shows it
        viewer.selected       # what is selected there, as rows of the probe's frame

    ranks: leading tokens sent for a position; height: in CSS pixels. A pair's folder has both
    models. Texts are read when they are looked at.
    Errors: `UserError` without anywidget, for a folder that is no probe, for probes of other tokens
    or texts, or limits below 1.
    """
    _require("explore", ranks=ranks, height=height)
    from ssd_probe.views.notebook.explorer import Explorer
    from ssd_probe.views.notebook.library import Library

    base, second = _opened(probe), None if other is None else _opened(other)
    about, names = described(base, second)
    return Explorer(Library(base, second), about, names, ranks, height=height)


def sliders(
    probe: Probe | str | Path,
    other: Probe | str | Path | None = None,
    *,
    positions: int = SOME,
) -> "Sliders":
    """Figures 6b-6d and the shares of the labels, live against temperature, top-k and top-p.

        panel = sliders("probes/base", "probes/tuned")
        panel                 # a cell of its own shows it
        panel.decoding        # the `Decoding` that is set there; can be set, too

    positions: at most so many, drawn at random (seed 0) from all texts.
    Errors: `UserError` as of `explore`, and where no position is valid.
    """
    _require("sliders", positions=positions)
    from ssd_probe.views.notebook.library import Library
    from ssd_probe.views.notebook.sliders import Sliders

    base, second = _opened(probe), None if other is None else _opened(other)
    about, _ = described(base, second)
    return Sliders(Library(base, second), about, positions)


def _opened(probe: Probe | str | Path) -> Probe:
    return probe if isinstance(probe, Probe) else Probe.load(probe)


def _require(caller: str, **limits: int) -> None:
    try:
        import anywidget  # noqa: F401
    except ImportError:
        raise UserError(
            f"{caller}: the anywidget package is missing; pip install 'ssd-probe[notebook]'"
        ) from None
    for name, value in limits.items():
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")

"""Figures 6b-6d and the labels' shares against the decoding, as a widget."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from ssd_probe.analysis.curves import (
    BIN_NAMES,
    MASS_BINS,
    TEMPERATURES,
    entropy_by_mass_bin,
    stack_models,
    truncation_curves,
)
from ssd_probe.analysis.frames import Missing, attempt
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.views.blocks import Text, pack
from ssd_probe.views.notebook.library import SIDES, Library
from ssd_probe.views.notebook.pictures import paragraph, shares_picture
from ssd_probe.views.notebook.widget import Widget
from ssd_probe.views.page import About, meta_of, script, settings_of, style

MODULES = ("math", "block", "elements", "surroundings", "curves", "charts", "panel", "asking",
           "sliders")  # fmt: skip


class Sliders(Widget):
    """The panel of one probe, or of two of the same texts. `decoding`: what is set in it."""

    _esm = script(MODULES)
    _css = style("sliders")
    settings = traitlets.Dict(help="the decoding, as the panel has it").tag(sync=True)

    def __init__(self, library: Library, about: About, positions: int, **traits: Any) -> None:
        """positions: at most so many are sent. Errors: `UserError` where none is valid."""
        text = library.sample(positions)
        self._frames, self._rule = frames_of(text), about.rule
        self._ranks = int(library.probe.settings["top_k"])
        notes, whole = [*about.notes], sum(library.lengths.values())
        if len(text.frame) < whole:
            notes.append(f"{len(text.frame):,} of {whole:,} positions, drawn at random.")
        self._about = about._replace(notes=notes)
        meta = meta_of(self._about, self._ranks) | {
            "temperatures": list(TEMPERATURES),
            "allowed": (1 - np.asarray(MASS_BINS)).tolist(),
            "bins": list(BIN_NAMES),
        }
        super().__init__(
            data={"meta": meta, "block": pack(text, self._ranks, ids=False)},
            settings=settings_of(about.rule.decoding),
            **traits,
        )

    @property
    def decoding(self) -> Decoding:
        """What is set. Errors: `UserError` for what the panel cannot show."""
        found = self.settings
        return Decoding(found["temperature"], found["topK"], found["topP"])

    @decoding.setter
    def decoding(self, decoding: Decoding) -> None:
        low, high = TEMPERATURES[0], TEMPERATURES[-1]
        if not low <= decoding.temperature <= high or decoding.top_k > self._ranks:
            raise UserError(
                f"{decoding}: the panel shows T from {low:g} to {high:g} and top-k up to "
                f"{self._ranks}, the ranks kept"
            )
        self.settings = settings_of(decoding)

    def drawing(self) -> str:
        """Figures 6b-6d by matplotlib, and the shares, at the settings of the rule."""
        parts = [f"<strong>{paragraph(self._about.title, *self._about.notes)}</strong>"]
        drawn = attempt(lambda: _figure(self._frames, self._rule.decoding))
        if isinstance(drawn, Missing):
            return "".join([*parts, paragraph(drawn.why)])
        said = f"Figures 6b-6d at {self._rule.decoding}"
        parts.append(f'<img alt="{said}" src="data:image/svg+xml;base64,{drawn}">')
        for model, frame in self._frames.items():
            parts += [paragraph(f"Labels, {model}:"), shares_picture(self._rule.label(frame))]
        return "".join(parts)

    def __str__(self) -> str:
        return f"Sliders of {self._about.title}: {len(self._frames[SIDES[0]])} positions"


def frames_of(text: Text) -> dict[str, pd.DataFrame]:
    """A text's frames by model, of the positions that are valid in all.

    Errors: `UserError` where there are none.
    """
    frames = [frame for frame in text[2:] if frame is not None]
    valid = np.logical_and.reduce([frame["valid"].to_numpy(bool) for frame in frames])
    if not valid.any():
        raise UserError("no position of the probe is valid")
    return {model: frame[valid] for model, frame in zip(SIDES, frames, strict=False)}


def _figure(frames: dict[str, pd.DataFrame], decoding: Decoding) -> str:
    """Figures 6b, 6c and 6d as SVG, base64."""
    from matplotlib.figure import Figure

    from ssd_probe.figures.distributions import fig_6b, fig_6c, fig_6d
    from ssd_probe.figures.style import PAGE_WIDTH, paper_style

    base = frames[SIDES[0]]
    cut = (decoding.top_k, decoding.top_p)
    curves = stack_models({m: truncation_curves(f, TEMPERATURES, *cut) for m, f in frames.items()})
    bins = stack_models(
        {m: entropy_by_mass_bin(f, decoding, binned_by=base) for m, f in frames.items()}
    )
    with paper_style():
        figure = Figure(figsize=(1.45 * PAGE_WIDTH, 2.4))
        axes = figure.subplots(1, 3)
        fig_6b(curves, axes[0])
        fig_6c(curves, axes[1])
        fig_6d(bins, axes[2])
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return base64.b64encode(file.getvalue()).decode("ascii")

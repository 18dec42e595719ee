"""Figures 4, 5 and 6, the loss and the fork rates of two probes, as files."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssd_probe.analysis.curves import ranked_probabilities, tempered_ranks
from ssd_probe.analysis.digest import Digest
from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.steps import steps_of_row
from ssd_probe.decoding import Decoding
from ssd_probe.figures import changes, distributions, steps
from ssd_probe.figures.saving import save
from ssd_probe.figures.style import figure_of, paper_style

Drawing = tuple[str, Figure | str, str]  # stem, figure (or why there is none) and caption
BAR_TEMPERATURES = (0.5, 2.0)  # low and high T_eval of Figure 4's bars


def draw_digest(
    found: Digest, out: Path, where: str, decoding: Decoding, tokenizer: object = None
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw all that two probes have data for into `out`.

    where: which texts, for the captions; decoding: the training one, as in `digest`. tokenizer:
    names Figure 5's tokens. Returns the PNG files, and (figure, why it is missing) for the rest.
    """
    paths, missing = [], []
    with paper_style():
        for stem, figure, caption in _drawings(found, where, decoding, tokenizer):
            if isinstance(figure, str):
                missing.append((stem, figure))
                continue
            paths.append(save(figure, out / stem, caption)[0])
            plt.close(figure)
    return paths, missing


def _drawings(
    found: Digest, where: str, decoding: Decoding, tokenizer: object
) -> Iterator[Drawing]:
    cut = f"top-k {decoding.top_k}, top-p {decoding.top_p:g}"
    none = "the first part of the probe holds no {}"
    if len(found.text):
        caption = f"Figure 4. Forks and locks of the base, by branching at {decoding}; {where}."
        yield "fig_4", figure_of(distributions.fig_4(found.text)), caption
    else:
        yield "fig_4", none.format("text or code"), ""
    lacks = [kind for kind in (FORK, LOCK) if kind not in found.examples]
    if lacks:
        for stem in ("fig_4_bars", "fig_5", "fig_8"):
            yield stem, none.format(lacks[0]), ""
    else:
        yield _bars(found, where, decoding)
        yield _ranked(found, where, decoding, tokenizer)
        yield _steps(found, where, decoding)
    yield (
        "fig_6a",
        figure_of(distributions.fig_6a(found.mass)),
        f"Figure 6a. Mean cumulative mass; {where}.",
    )
    caption = f"Figure 6b. Mean number of tokens that {cut} keeps; {where}."
    yield "fig_6b", figure_of(distributions.fig_6b(found.curves)), caption
    caption = f"Figure 6c. Mean entropy after {cut}; {where}."
    yield "fig_6c", figure_of(distributions.fig_6c(found.curves)), caption
    if found.bins is None:
        yield "fig_6d", "the probe keeps fewer than 20 ranks", ""
    else:
        caption = f"Figure 6d. Entropy after {decoding}, by the base's top-20 mass; {where}."
        yield "fig_6d", figure_of(distributions.fig_6d(found.bins)), caption
    yield _loss(found.comparison, where, decoding)
    caption = (
        "Share of forks among positions, with 95 % bootstrap intervals over problems; in brackets: "
        f"positions; {where}."
    )
    yield "fork_rates", changes.fig_rates_panels(found.rates), caption


def _bars(found: Digest, where: str, decoding: Decoding) -> Drawing:
    rows = [
        tempered_ranks(found.examples[kind][0], decoding, BAR_TEMPERATURES).assign(label=kind)
        for kind in (FORK, LOCK)
    ]
    caption = (
        "Figure 4, bars. Head (tokens that the training decoding keeps) and tail of one fork and "
        f"one lock of the base at low and high T_eval, among the probe's ranks; {decoding}; "
        f"{where}."
    )
    return "fig_4_bars", figure_of(changes.fig_4_bars(pd.concat(rows))), caption


def _ranked(found: Digest, where: str, decoding: Decoding, tokenizer: object) -> Drawing:
    models = list(dict.fromkeys(found.mass["model"]))
    rows = [
        ranked_probabilities(row, decoding, 12, tokenizer).assign(model=model, label=kind)
        for kind in (FORK, LOCK)
        for model, row in zip(models, found.examples[kind], strict=True)
    ]
    caption = (
        "Figure 5. Ranked next-token probabilities (T=1) at the fork of highest and the lock of "
        f"median entropy, both models; lines: where {decoding} cuts. Ticks name the base's tokens; "
        f"{where}."
    )
    return "fig_5", distributions.fig_5_pair(pd.concat(rows, ignore_index=True)), caption


def _steps(found: Digest, where: str, decoding: Decoding) -> Drawing:
    rows = [
        steps_of_row(found.examples[kind][0], decoding, ranks=24).assign(label=kind)
        for kind in (FORK, LOCK)
    ]
    caption = (
        f"Figure 8. The decoding pipeline of {decoding}, step by step, at Figure 5's fork and lock "
        f"of the base; {where}."
    )
    return "fig_8", steps.fig_8(pd.concat(rows, ignore_index=True), decoding), caption


def _loss(comparison: pd.DataFrame, where: str, decoding: Decoding) -> Drawing:
    if "target_kl" not in set(comparison["statistic"]):
        return "loss_terms", "greedy training has no loss terms", ""
    caption = (
        f"KL(q || p) from the training target q of {decoding}, before (base) and after (tuned): "
        "-log K for the mass outside the support, and KL(q || p(.|S)) for its shape inside; "
        f"{where}."
    )
    return "loss_terms", figure_of(changes.fig_loss(comparison)), caption

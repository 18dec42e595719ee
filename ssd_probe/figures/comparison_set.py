"""The figures of two compared probes with their captions, as files: 4-6, 8, loss, fork rates."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd_probe.analysis.digest import Digest
from ssd_probe.decoding import Decoding
from ssd_probe.executors import ALONE, Crew
from ssd_probe.figures import changes, distributions, steps
from ssd_probe.figures.pass_at_k import fig_2, fig_rivals
from ssd_probe.figures.saving import Plan, Saved, save_all

FIRST = "among the first texts of the probe (its first part file)"


def draw_digest(found: Digest, out: Path, notes: Sequence[str] = (), crew: Crew = ALONE) -> Saved:
    """Draw all that two probes have data for; notes: what to distrust, below the captions."""
    decoding, where = found.decoding, found.where
    cut = f"top-k {decoding.top_k}, top-p {decoding.top_p:g}"

    source = where.partition(" positions of ")[2] or where

    def plan(
        stem: str, data: Any, draw: Callable[[Any], Figure | Axes], caption: str, of: str = where
    ) -> Plan:
        told = f"{caption}; {of}.{_below(notes)}"
        return Plan(stem, data, partial(_drawn, draw, told))

    plans = [
        plan("fig_4", found.text, distributions.fig_4,
             "Figure 4, after the paper's. Forks, locks and open positions of the base; stronger: "
             f"more branching at {found.marking}; the text with the median share of forks among "
             f"those of at least median length {FIRST}", source),
        plan("fig_4_bars", found.bars, changes.fig_4_bars,
             "Figure 4, bars. Head (tokens that the training decoding keeps) and tail of one fork "
             "and one lock of the base (Figure 5's) at low and high T_eval, among the probe's "
             f"ranks; the percentages are the tail's; {decoding}", source),
        plan("fig_5", found.ranked, distributions.fig_5_pair,
             "Figure 5, after the paper's. Ranked next-token probabilities (T=1), both models, the "
             "fork on a linear axis and the lock on a logarithmic one; lines: where "
             f"{decoding} cuts. Ticks name the base's tokens; above each panel the text before. "
             "The fork is the one of median entropy among those of 2 to 6 kept tokens, the lock "
             f"that of median entropy among all, {FIRST}", source),
        plan("fig_8", found.steps, steps.fig_8,
             f"Figure 8. The decoding pipeline of {decoding}, step by step, at Figure 5's fork and "
             "lock of the base", source),
        plan("fig_6a", found.mass, distributions.fig_6a, 
             "Figure 6a. Mean cumulative mass by rank, on a logarithmic axis of what is missing"),
        plan("fig_6b", found.curves, distributions.fig_6b,
             f"Figure 6b. Mean number of tokens that {cut} keeps"),
        plan("fig_6c", found.curves, distributions.fig_6c,
             f"Figure 6c. Mean entropy after {cut}"),
        plan("fig_6d", found.bins, distributions.fig_6d,
             f"Figure 6d. Entropy after {decoding}, by the base's top-20 mass; a position is in "
             "the highest bin that its mass reaches, and in no other"),
        plan("loss_terms", found.loss, changes.fig_loss,
             f"KL(q || p) from the training target q of {decoding}, before (base) and after "
             "(tuned): -log K for the mass outside the support S, and KL(q || pi) for its shape "
             "inside, pi being p within S; n: positions"),
        plan("fork_rates", found.rates, changes.fig_rates_panels,
             "Share of forks and of open positions (where there are any), with 95 % intervals "
             "over problems (bootstrap, or exact binomial bounds where all problems agree; none "
             "where a group is of one); in brackets: positions; of syntax the kinds with most"),
    ]  # fmt: skip
    return save_all(plans, out, crew)


def _drawn(
    draw: Callable[[Any], Figure | Axes], told: str, frame: Any
) -> tuple[Figure | Axes, str]:
    return draw(frame), told


def draw_passes(
    curves: pd.DataFrame,
    decoding: Decoding,
    out: Path,
    notes: Sequence[str] = (),
    rivals: Sequence[str] = (),
) -> Saved:
    """Draw Figure 2 for each k of a run's dev sweep, whose models share `decoding`'s truncation.

    curves: of `pass_curves`, all problems together; notes: what to distrust, below captions;
    rivals: models with rules of their own.
    """
    but = f" but {', '.join(rivals)}, by their own rules" if rivals else ""

    def draw(rows: pd.DataFrame) -> tuple[Axes, str]:
        return fig_2(rows), (
            f"Figure 2. pass@{rows['k'].iloc[0]} on {rows['problems'].iloc[0]} dev problems "
            f"against T_eval, with top-k {decoding.top_k}, top-p {decoding.top_p:g} for every "
            f"model{but}; bands, or where there are more than two models their edges: 95 % "
            "intervals over problems; stars: each model's best, one within the other where two "
            "models' are in one place."
            f"{_below(notes)}"
        )

    plans = [Plan(f"fig_2_pass{k}", rows, draw) for k, rows in curves.groupby("k")]
    return save_all(plans, out)


def draw_tested(passes: pd.DataFrame, main: str, out: Path, notes: Sequence[str] = ()) -> Saved:
    """Draw pass@k on the test problems of base, rivals and students, a figure a k.

    passes: model, group, k, estimate, low, high, problems, temperature; main: the main arm, which
    is drawn as SSD. notes: as of `draw_passes`.
    """

    def draw(rows: pd.DataFrame) -> tuple[Figure, str]:
        groups = rows["group"].map(lambda group: "overall" if group == "all" else group)
        looks = rows["model"].map(lambda name: "ssd" if name == main else name)
        chosen = rows[rows["group"] == "all"]
        where = ", ".join(f"{name} {t:g}" for name, t in zip(chosen["model"],
                          chosen["temperature"], strict=True))  # fmt: skip
        return fig_rivals(rows.assign(name=groups, model=looks)), (
            f"pass@{rows['k'].iloc[0]} on {chosen['problems'].iloc[0]} test problems, by "
            f"difficulty: the base (hatched), the base by decode-only rules, SSD ({main}, solid) "
            f"and the other students, each at the T that was best for it on dev ({where}); above: "
            f"SSD less base, in points; whiskers: 95 % bootstrap over problems.{_below(notes)}"
        )

    plans = [Plan(f"rivals_pass{k}", rows, draw) for k, rows in passes.groupby("k")]
    return save_all(plans, out)


def _below(notes: Sequence[str]) -> str:
    """A paragraph of its own, so that the caption can be read without it."""
    return "\n\nRead with care: " + ". ".join(notes) + "." if notes else ""

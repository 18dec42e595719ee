"""All that two probes of the same texts have to say, in one pass over their parts.

Memory holds a part of each probe for each worker, and sums by problem, however many positions
there are.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from ssd_probe.analysis.compare import (
    Verdict,
    add_totals,
    kind_counts,
    loss_parts,
    noise_floors,
    summarise,
    totals,
    unfit,
    verdicts,
)
from ssd_probe.analysis.curves import (
    cumulative_mass,
    entropy_by_mass_bin,
    pooled,
    stack_models,
    truncation_curves,
)
from ssd_probe.analysis.examples.chosen import example_positions, example_text, examples
from ssd_probe.analysis.frames import Missing, attempt, stats_of
from ssd_probe.analysis.labels import FORK, LOCK, Rule
from ssd_probe.analysis.leverage import LEAST_SLIP, Leverage, conflict_totals, leverage
from ssd_probe.analysis.rates import fork_rates, label_counts
from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.errors import UserError
from ssd_probe.executors import ALONE, Crew
from ssd_probe.kernels.results import PositionStats

SIDES = ("base", "tuned")
FIGURE_RANKS = 60  # of Figure 6a
BIN_RANKS = 20  # that Figure 6d needs
Part = tuple[pd.DataFrame, pd.DataFrame]  # of base and tuned model
Parts = Iterable[Part | Callable[[], Part]]


class Digest(NamedTuple):
    """Frames for the tables and, in plot form, for the figures; with what they were made with.

    Both models are told apart by the column `model`, fork and lock by `label`.
    """

    decoding: Decoding  # the training one
    marking: Decoding  # of Figure 4's branching: the rule's, if it has one
    where: str  # which texts and positions, in words
    comparison: pd.DataFrame  # `compare`
    leverage: Leverage | None  # None without a lock or without a fork
    verdicts: list[Verdict]
    rates: pd.DataFrame  # `fork_rates`
    loss: pd.DataFrame | Missing  # `loss_parts`
    mass: pd.DataFrame  # Figure 6a
    curves: pd.DataFrame  # Figures 6b, 6c
    bins: pd.DataFrame | Missing  # Figure 6d
    text: pd.DataFrame | Missing  # Figure 4: one text's tokens, with label and branching
    bars: pd.DataFrame | Missing  # Figure 4's bars
    ranked: pd.DataFrame | Missing  # Figure 5
    steps: pd.DataFrame | Missing  # Figure 8


def digest(
    parts: Parts,
    rule: Rule,
    decoding: Decoding,
    *,
    where: str = "",
    noise: pd.DataFrame | None = None,
    names: tuple[str, str] = SIDES,
    tokenizer: Any = None,
    n_resamples: int = 2000,
    seed: int = 0,
    crew: Crew = ALONE,
) -> Digest:
    """Compare two probes part by part, with locks and forks by `rule` on the base.

    parts: (base, tuned) frames of the same whole texts, or what gives them when a worker of `crew`
    calls it (for other processes: what pickle can carry); decoding: the training one, whose support
    S is measured; its top-k and top-p are also those of the curves over T_eval; where: which texts
    and positions, for captions; noise: as in `compare`; names: of the two models in the curves;
    tokenizer: names Figure 5's tokens. The examples come from the first part, and are typical ones
    (`examples.chosen`). What a figure lacks its data for is `Missing`.
    Raises UserError as `compare` does, and without parts.
    """
    noisy = set() if noise is None else set(noise["sample_id"])
    marking = getattr(rule, "decoding", LABELLING)
    work = partial(_worked, rule=rule, decoding=decoding, marking=marking, noisy=noisy)
    results = list(crew.map(work, ((part, not n) for n, part in enumerate(parts))))
    read = [sums for sums, _ in results if sums is not None]
    if not read:
        raise UserError("no position is valid in both probes")
    chosen, text = results[0][1]
    shown = examples(chosen, decoding, names, tokenizer)
    random: dict[str, int] = {"n_resamples": n_resamples, "seed": seed}
    floors = _floors(read, noise, decoding)
    comparison = summarise(add_totals(part.totals for part in read), floors, **random)
    found = _leverage(read, random)
    bins = [part.bins for part in read]
    return Digest(
        decoding=decoding,
        marking=marking,
        where=where,
        comparison=comparison,
        leverage=found,
        verdicts=[*verdicts(comparison), leverage_verdict(found, kind_counts(comparison))],
        rates=fork_rates([p.counts for p in read], **random),
        loss=attempt(lambda: loss_parts(comparison)),
        mass=_stacked([p.mass for p in read], "rank", names),
        curves=_stacked([p.curves for p in read], "temperature", names),
        bins=_stacked(bins, ["bin", "least_mass"], names)
        if bins[0]
        else Missing(f"the probe keeps fewer than {BIN_RANKS} ranks"),
        text=text,
        **shown,
    )


def _worked(
    part: Part | Callable[[], Part],
    shows: bool,
    *,
    rule: Rule,
    decoding: Decoding,
    marking: Decoding,
    noisy: set,
) -> "tuple[_Part | None, Any]":
    """What a part adds, and where it `shows` the examples: their positions, Figure 4's text."""
    base, tuned = part() if callable(part) else part
    stats = stats_of(base), stats_of(tuned)
    labels = rule.label(base, stats[0])
    shown = None
    if shows:
        chosen = example_positions(base, tuned, labels, decoding)
        shown = chosen, attempt(lambda: example_text(base, labels, marking))
    return _part(base, tuned, stats, labels, decoding, noisy), shown


def leverage_verdict(found: Leverage | None, counts: Mapping[str, int]) -> Verdict:
    """The third claim: at the same slip of the locks, the tuned model's forks open further.

    counts: of `kind_counts`. Undecided where locks or forks are `unfit` for a verdict.
    """
    claim, why = "T_eval gained leverage", unfit(counts, LOCK, FORK)
    if found is None:
        return Verdict(claim, None, {"unfit": why})
    holds = None if why else True if found.low > 0 else False if found.high <= 0 else None
    return Verdict(claim, holds, found._asdict() | {"least_slip": LEAST_SLIP, "unfit": why})


class _Part(NamedTuple):
    """What one part adds, and of the first one the examples."""

    totals: pd.DataFrame
    conflict: pd.DataFrame
    counts: pd.DataFrame
    mass: tuple[pd.DataFrame, ...]  # by side
    curves: tuple[pd.DataFrame, ...]
    bins: tuple[pd.DataFrame, ...]  # none where the probes keep too few ranks
    again: pd.DataFrame  # the base's rows that the noise floor scored once more
    kinds: pd.Series  # their labels


def _part(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    both: tuple[PositionStats, PositionStats],
    labels: pd.Series,
    decoding: Decoding,
    noisy: set,
) -> _Part | None:
    """None where no position is valid in both probes."""
    sums = totals(base, tuned, labels, decoding, stats=both)
    if sums.empty:
        return None
    top_k, top_p = decoding.top_k, decoding.top_p
    ranks = both[0].top_ids.shape[1]
    again = base["sample_id"].isin(noisy)
    return _Part(
        totals=sums,
        conflict=conflict_totals(*both, labels, base["problem_id"], top_k=top_k, top_p=top_p),
        counts=label_counts(base, labels),
        mass=tuple(cumulative_mass(stats, min(FIGURE_RANKS, ranks)) for stats in both),
        curves=tuple(truncation_curves(stats, top_k=top_k, top_p=top_p) for stats in both),
        bins=tuple(entropy_by_mass_bin(stats, decoding, binned_by=both[0]) for stats in both)
        if ranks >= BIN_RANKS
        else (),
        again=base[again],
        kinds=labels[again],
    )


def _floors(
    read: list[_Part], noise: pd.DataFrame | None, decoding: Decoding
) -> dict[tuple[str, str], float] | None:
    if noise is None:
        return None
    again = pd.concat([part.again for part in read])
    kinds = pd.concat([part.kinds for part in read])
    return noise_floors(again, noise, kinds.to_numpy(), decoding)


def _leverage(read: list[_Part], random: dict[str, int]) -> Leverage | None:
    conflicts = [part.conflict for part in read]
    if any(label not in set().union(*(c.index.unique("label") for c in conflicts))
           for label in (LOCK, FORK)):  # fmt: skip
        return None
    return leverage(conflicts, **random)


def _stacked(
    parts: list[tuple[pd.DataFrame, ...]], by: str | list[str], names: tuple[str, str]
) -> pd.DataFrame:
    """The curves of both models over all parts."""
    sides = zip(*parts, strict=True)
    return stack_models({name: pooled(side, by) for name, side in zip(names, sides, strict=True)})

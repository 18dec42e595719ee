"""What self-distillation can do to a model, from the base's probe alone: the ideal-fit bound.

Every number is that of a student which fits its target exactly (`ideal`). It is a bound and no
forecast of pass@k: real training stops short of its target, and nothing here knows which tokens
are right.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ssd_probe.analysis.labels import FORK, KINDS, LOCK
from ssd_probe.analysis.prediction.feasible import Limits, interval
from ssd_probe.analysis.prediction.ideal import Ranks, draws, ideal_student, log_totals, lost_mass
from ssd_probe.analysis.prediction.positions import Sample
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats

TRAIN = ["T_train", "top_k_train", "top_p_train"]
EVAL = ["T_eval", "top_k_eval", "top_p_eval"]
GAINS = ["gain_support", "gain_reshaping", "gain_cut"]
BASE, IDEAL, ALL = "base", "ideal fit", "all"


class Prediction(NamedTuple):
    """`supports`, `cells`, `intervals` as of `predict`, and what they were made from."""

    supports: pd.DataFrame
    cells: pd.DataFrame
    intervals: pd.DataFrame
    positions: dict[str, int]  # by label
    left_out: int  # drawn, but not valid, or of supports that the K ranks cannot tell
    trains: tuple[Decoding, ...]
    evals: tuple[Decoding, ...]
    limits: Limits
    rule: Any  # that told locks and forks

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest T_eval."""
        return span_of(self.evals)


def predict(
    sample: Sample,
    trains: Sequence[Decoding],
    evals: Sequence[Decoding],
    limits: Limits | None = None,
) -> Prediction:
    """Base and ideal student at every training and evaluation setting, by label and overall.

    supports, a row a training setting and label: support_size, kept_mass (K, the base's mass on S
    at T=1), lost_mass (1 - K), target_entropy (H(q), nats), and Prop. B.3 at tau = 1 for the top
    token: gain_support (for A = S the whole gain) and gain_reshaping, mean nats. Without training
    truncation S is the vocabulary: what the K ranks do not know of it is NaN.
    cells, a row a model, evaluation setting and label: as `cells_of`, and for students gain_support
    + gain_reshaping + gain_cut = the rise of log_top1 over the base's: Prop. B.3 on the base
    restricted to the evaluation's top-k, then what the two nuclei cut, mean nats.
    intervals, a row a model and evaluation truncation: `feasible.Interval`, by reach, most
    first; of equals the cooler training. T_eval is searched between the ends of `evals`.
    The base is the model "base", its T_train NaN.
    Raises UserError for greedy settings, without a lock or a fork, and for settings that need more
    than the K ranks. Source: Prop. B.2, B.3, eq. 40.
    """
    limits = limits or Limits()
    stats = by_label(sample, exactly_known(sample.stats, trains, evals).numpy())
    base = {label: Ranks(part.top_logits) for label, part in stats.items()}
    span = span_of(evals)
    truncations = dict.fromkeys(replace(e, temperature=1.0) for e in evals)
    cells, supports, intervals = [], [], []
    for train in (None, *trains):
        named, model = setting_of(train), base
        if train is not None:
            model = {label: ideal_student(ranks, train) for label, ranks in base.items()}
            supports.append(_supports(stats, model, train).assign(**named))
        cells.append(cells_of(model, evals, limits).assign(**named))
        for cut in truncations:
            found = interval(model[LOCK], model[FORK], cut, span, limits)._asdict()
            intervals.append({**named, "top_k_eval": cut.top_k, "top_p_eval": cut.top_p, **found})
    order = {"by": ["reach", "T_train"], "ascending": [False, True], "kind": "stable"}
    positions = {label: len(part) for label, part in stats.items()}
    return Prediction(
        supports=pd.concat(supports, ignore_index=True),
        cells=_with_gains(pd.concat(cells, ignore_index=True)),
        intervals=pd.DataFrame(intervals).sort_values(**order, ignore_index=True),
        positions=positions,
        left_out=len(sample.labels) - sum(positions.values()),
        trains=tuple(trains),
        evals=tuple(evals),
        limits=limits,
        rule=sample.rule,
    )


def exactly_known(
    stats: PositionStats, trains: Sequence[Decoding], evals: Sequence[Decoding]
) -> torch.Tensor:
    """Where all that each top-k keeps is within the K ranks, bool [N].

    Training without truncation asks nothing: its student is the base at T_eff. Top-p alone would
    need the vocabulary's mass at each T, which a probe does not hold.
    Raises UserError for greedy or missing settings, and where over 1 % of positions are not known.
    """
    if not trains or not evals:
        raise UserError("prediction needs at least one training and one evaluation setting")
    for decoding in (*trains, *evals):
        if decoding.is_greedy:
            raise UserError(f"T = {decoding.temperature:g}: prediction needs temperatures above 0")
    top_ks = {d.top_k for d in (*(t for t in trains if t.truncates), *evals)}
    known, ranks = stats.valid.clone(), stats.top_logits.shape[1]
    for top_k in sorted(top_ks):
        exact = stats.support_exact(Decoding(1.0, top_k))
        unknown = int((stats.valid & ~exact).sum())
        if unknown > 0.01 * len(stats):
            raise UserError(
                f"top-k {top_k}: what it keeps is not within the probe's {ranks} ranks at "
                f"{unknown} of {len(stats)} positions: give a top-k from 1 to below {ranks}, or "
                "probe with more ranks"
            )
        known &= exact
    return known


def by_label(sample: Sample, known: NDArray[np.bool_]) -> dict[str, PositionStats]:
    """The known positions of a sample by label. Raises UserError without a lock or a fork."""
    parts = {
        label: sample.stats.rows(rows)
        for label in KINDS
        if (rows := known & (sample.labels == label)).any()
    }
    for label in (LOCK, FORK):
        if label not in parts:
            other = len(parts.get(FORK if label == LOCK else LOCK, ()))
            raise UserError(
                f"no {label} among {known.sum()} positions (of the other kind: {other}): other "
                "texts, more positions, or another decoding of the rule that labels "
                "(--rule-temperature, --rule-top-p)"
            )
    return parts


def cells_of(model: dict[str, Ranks], evals: Sequence[Decoding], limits: Limits) -> pd.DataFrame:
    """Means of what a model draws, a row a label ("all" too) and evaluation setting.

    survivors (tokens); entropy (nats); branching; top1 (mass of its top token); precise and open
    (shares, see `Limits`); log_top1 (nats). log_inside and log_reshaped are for the gains.
    """
    setting = pd.DataFrame([_values(e) for e in evals], columns=EVAL)
    tables = {}
    for label, ranks in model.items():
        drawn = draws(ranks, evals)
        columns = {
            "survivors": drawn.size.double(),
            "entropy": drawn.entropy,
            "branching": drawn.entropy.exp(),
            "top1": drawn.top1,
            "precise": torch.from_numpy(limits.precise(drawn)).double(),
            "open": torch.from_numpy(limits.open(drawn)).double(),
            "log_top1": drawn.top1.log(),
            "log_inside": log_totals(ranks, evals),
            "log_reshaped": log_totals(ranks, evals, ranks.temperature),
        }
        means = {name: value.mean(0).numpy() for name, value in columns.items()}
        tables[label] = setting.assign(label=label, positions=len(ranks.logits), **means)
    return pd.concat([_overall(tables), *tables.values()], ignore_index=True)


def temperature_map(found: Prediction) -> pd.DataFrame:
    """What the map shows, a row a model and evaluation setting.

    Columns: model, the training and evaluation setting, precision (mean mass of the top token at
    locks), branching (mean, at forks), feasible (both shares of `Limits` are reached).
    """
    cells, limits = found.cells, found.limits
    locks, forks = (cells[cells["label"] == kind].reset_index(drop=True) for kind in (LOCK, FORK))
    feasible = (locks["precise"] >= limits.lock_share) & (forks["open"] >= limits.fork_share)
    shown = {"precision": locks["top1"], "branching": forks["branching"], "feasible": feasible}
    return locks[["model", *TRAIN, *EVAL]].assign(**shown)


def span_of(evals: Sequence[Decoding]) -> tuple[float, float]:
    """The lowest and the highest temperature."""
    return min(e.temperature for e in evals), max(e.temperature for e in evals)


def setting_of(train: Decoding | None) -> dict[str, object]:
    """The columns that name a model: the base's training setting is NaN."""
    values = (np.nan, np.nan, np.nan) if train is None else _values(train)
    return {"model": BASE if train is None else IDEAL, **dict(zip(TRAIN, values, strict=True))}


def _with_gains(cells: pd.DataFrame) -> pd.DataFrame:
    """The gains in log p(top token): means of logs add, so means are all that they need."""
    keys = [*EVAL, "label"]
    base = cells[cells["model"] == BASE].set_index(keys)[["log_inside", "log_top1"]]
    before = base.loc[pd.MultiIndex.from_frame(cells[keys])].reset_index(drop=True)
    support = before["log_inside"] - cells["log_inside"]
    reshaping = cells["log_inside"] - cells["log_reshaped"]
    cut = cells["log_top1"] - before["log_top1"] - support - reshaping
    student = cells["model"] != BASE
    gains = zip(GAINS, (support, reshaping, cut), strict=True)
    cells = cells.assign(**{name: gain.where(student) for name, gain in gains})
    return cells.drop(columns=["log_inside", "log_reshaped"])


def _supports(
    base: dict[str, PositionStats], student: dict[str, Ranks], train: Decoding
) -> pd.DataFrame:
    """The rows of `Prediction.supports` for one training setting."""
    tables, plain = {}, [Decoding()]
    for label, ranks in student.items():
        lost = lost_mass(base[label], ranks, train)
        drawn = draws(ranks, plain)
        reshaping = log_totals(ranks, plain) - log_totals(ranks, plain, ranks.temperature)
        # Without truncation S is within the ranks only where nothing lies beyond them.
        whole = train.truncates | (base[label].tail_log_mass == -torch.inf)
        columns = {
            "support_size": drawn.size[:, 0].double().where(whole, torch.nan),
            "kept_mass": 1 - lost,
            "lost_mass": lost,
            "target_entropy": drawn.entropy[:, 0].where(whole, torch.nan),
            "gain_support": -torch.log1p(-lost),
            "gain_reshaping": reshaping[:, 0].where(whole, torch.nan),
        }
        means = {name: [value.mean().item()] for name, value in columns.items()}
        tables[label] = pd.DataFrame({"label": label, "positions": len(lost), **means})
    return pd.concat([_overall(tables), *tables.values()], ignore_index=True)


def _overall(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over all labels from the means of each: weighted by positions, row by row."""
    total = sum(table["positions"] for table in tables.values())
    first = next(iter(tables.values()))
    kept = [name for name in EVAL if name in first]
    means = {
        name: sum(table[name] * table["positions"] for table in tables.values()) / total
        for name in first.columns.drop([*kept, "label", "positions"])
    }
    return first[kept].assign(label=ALL, positions=total, **means)


def _values(decoding: Decoding) -> tuple[float, int, float]:
    return decoding.temperature, decoding.top_k, decoding.top_p

"""What a sweep table says: best points, effective temperature, grids, difficulty, stress test.

Frames in, frames out: the data of Figures 1-3, 7, 9-11 and 15. Tables: `sweep_table.check_sweep`.
A best point is chosen on the problems that it is then reported on, and so is optimistic.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ssd_probe.analysis.passk import DIFFICULTIES
from ssd_probe.analysis.sweeps.table import EVAL, TRAIN, decoding_of, truncation
from ssd_probe.errors import UserError

STRESS_T = 2.0  # the paper's stress test: T_train = 2.0, no truncation
_SCORES = ["model", "temperature", "group", "k", "estimate", "low", "high", "problems"]


def select(sweep: pd.DataFrame, group: str, k: int) -> pd.DataFrame:
    """The rows of one group and k. Raises UserError when there are none."""
    rows = sweep[(sweep["group"] == group) & (sweep["k"] == k)]
    if rows.empty:
        raise UserError(f"the sweep holds no pass@{k} of the group '{group}'")
    return rows


def base_of(sweep: pd.DataFrame) -> pd.DataFrame:
    """The rows of the base model (no T_train, no policy). Raises UserError when there are none."""
    rows = sweep[sweep["T_train"].isna() & (sweep["policy"] == "")]
    if rows.empty:
        raise UserError("the sweep holds no base model (rows without T_train)")
    return rows


def students_of(sweep: pd.DataFrame) -> pd.DataFrame:
    """The rows of trained models without a policy. Raises UserError when there are none."""
    rows = sweep[sweep["T_train"].notna() & (sweep["policy"] == "")]
    if rows.empty:
        raise UserError("the sweep holds no trained model (rows with T_train)")
    return rows


def rivals_of(sweep: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each decode-only rival: by its policy, and its checkpoint where two have one."""
    rows = sweep[sweep["policy"] != ""]
    shared = rows.groupby("policy")["model"].nunique() > 1
    return {
        f"{policy}, {model}" if shared[policy] else str(policy): part
        for (policy, model), part in rows.groupby(["policy", "model"], sort=False)
    }


def best(rows: pd.DataFrame) -> pd.Series:
    """The row with the highest estimate; of equal ones that with the lowest T_eval."""
    return rows.sort_values(["estimate", "T_eval"], ascending=[False, True], kind="stable").iloc[0]


class Margin(NamedTuple):
    """How far the best student stands above the base's best point (Figure 2's shaded margin)."""

    base: float
    student: float

    @property
    def gain(self) -> float:
        """student - base, a fraction: positive where no decoding of the base gets there."""
        return self.student - self.base


def against_base(
    sweep: pd.DataFrame, group: str, k: int, chosen: pd.Series | None = None
) -> tuple[pd.DataFrame, Margin]:
    """Figure 2, one panel: the base against T_eval, a student's level, and their margin.

    chosen: a row whose model and settings the student's level has, so that panels show one and the
    same; by default the best of this group and k. The base always has its best point, and its curve
    is that of this point's truncation. Returns model ("base", "ssd"),
    temperature, group, k, estimate, low, high, problems, checkpoint (the table's model), setting.
    Raises UserError without a base, a student, or this group and k.
    """
    rows = select(sweep, group, k)
    base, trained = base_of(rows), students_of(rows)
    if chosen is not None:
        trained = _same(trained, chosen, ["model", *TRAIN, *EVAL])
        if trained.empty:
            raise UserError(f"the chosen model {chosen['model']} has no pass@{k} of '{group}'")
    highest, top = best(base), best(trained)
    curve = _same(base, highest, EVAL[1:]).sort_values("T_eval")
    frame = pd.concat([_scores(curve, "base"), _scores(top.to_frame().T, "ssd")])
    return frame, Margin(float(highest["estimate"]), float(top["estimate"]))


def by_difficulty(sweep: pd.DataFrame, k: int, student: pd.DataFrame | None = None) -> pd.DataFrame:
    """Figures 1 and 15: base and student by group, each at the T_eval best for it on "all".

    student: rows of the trained models to choose from; by default all of them, and with the
    decode-only rivals. Columns: as of `against_base`; a rival's model is its policy. Raises
    UserError without a base, a student, or pass@k of "all".
    """
    sides = {"base": base_of(sweep), "ssd": students_of(sweep) if student is None else student}
    sides |= rivals_of(sweep) if student is None else {}
    parts = []
    for model, rows in sides.items():
        chosen = best(select(rows, "all", k))
        rows = _same(rows[rows["k"] == k], chosen, ["model", *TRAIN, *EVAL])
        order = {name: i for i, name in enumerate(("all", *DIFFICULTIES))}
        rank = rows["group"].map(order).fillna(len(order))
        parts.append(_scores(rows.loc[rank.sort_values(kind="stable").index], model))
    return pd.concat(parts, ignore_index=True)


def stress_rows(sweep: pd.DataFrame) -> pd.DataFrame:
    """The stress test (section 1): the model trained without truncation at the highest T_train.

    Raises UserError when none was trained so at T_train >= 2.
    """
    trained = students_of(sweep)
    free = trained[(trained["top_k_train"] == 0) & (trained["top_p_train"] == 1)]
    free = free[free["T_train"] >= STRESS_T]
    if free.empty:
        raise UserError(
            f"the sweep holds no model trained without truncation at T_train >= {STRESS_T:g}"
        )
    hottest = free.loc[free["T_train"].idxmax()]
    return _same(free, hottest, ["model", "T_train"])


def stress_curves(sweep: pd.DataFrame) -> pd.DataFrame:
    """Figure 7: pass@k on "all" against T_eval, base and stressed model, every k.

    Each at the truncation of its best pass@1 point (or of the least k that is there).
    Columns: as of `against_base`. Raises UserError without a base or a stressed model.
    """
    parts = []
    for model, rows in (("base", base_of(sweep)), ("ssd", stress_rows(sweep))):
        top = best(select(rows, "all", int(rows["k"].min())))
        rows = _same(rows[rows["group"] == "all"], top, EVAL[1:])
        parts.append(_scores(rows.sort_values(["k", "T_eval"]), model))
    return pd.concat(parts, ignore_index=True)


def with_effective_temperature(sweep: pd.DataFrame) -> pd.DataFrame:
    """The trained models' rows with `T_eff = T_train * T_eval` (Lemma B.1) and `setting`.

    setting: the training truncation, with the evaluation's where that varies as well; the order of
    the rows is by how much it cuts, no truncation first. Raises UserError without trained models.
    """
    rows = students_of(sweep).copy()
    rows["T_eff"] = rows["T_train"] * rows["T_eval"]
    varies = len(rows[EVAL[1:]].drop_duplicates()) > 1
    rows["setting"] = [
        truncation(k, p) + (f" / eval {truncation(eval_k, eval_p)}" if varies else "")
        for k, p, eval_k, eval_p in rows[[*TRAIN[1:], *EVAL[1:]]].itertuples(index=False)
    ]
    order = [rows["top_k_train"].replace(0, np.inf), rows["top_p_train"]]
    order += [rows["top_k_eval"].replace(0, np.inf), rows["top_p_eval"], -rows["T_eff"]]
    keys = pd.concat(order, axis=1, keys=range(len(order)))
    return rows.loc[keys.sort_values(list(keys), ascending=False, kind="stable").index]


class Quadratic(NamedTuple):
    """`y = a x^2 + b x + c` by least squares; peak NaN when it opens upward.

    r2: the share of the variance explained, NaN when y is constant. low, high: the peak's 95 %
    interval (Fieller), NaN when the curvature is not told apart from 0.
    """

    a: float
    b: float
    c: float
    r2: float
    peak: float
    low: float
    high: float
    points: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (self.a * x + self.b) * x + self.c


def fit_quadratic(x: ArrayLike, y: ArrayLike) -> Quadratic:
    """Least-squares quadratic, its R^2 and the peak `-b / 2a` with its interval (Figure 3a).

    The interval takes the residuals as independent and of equal spread. Cells of one sweep share
    their problems, so it is a guide. Raises UserError below 4 points or 3 different x.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 4 or len(np.unique(x)) < 3:
        raise UserError(
            f"a quadratic fit needs 4 points at 3 different effective temperatures, "
            f"not {len(x)} at {len(np.unique(x))}"
        )
    middle = x.mean()  # centred: a, b and c are then nearly uncorrelated
    (a, b, c), covariance = np.polyfit(x - middle, y, 2, cov=True)
    residual = float(((y - np.polyval([a, b, c], x - middle)) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    peak, low, high = -b / (2 * a) if a < 0 else np.nan, np.nan, np.nan
    if a < 0:
        low, high = _fieller(a, b, covariance, stats.t.ppf(0.975, len(x) - 3))
    return Quadratic(
        float(a), float(b - 2 * a * middle), float(c - b * middle + a * middle**2),
        1 - residual / total if total > 0 else float("nan"),
        float(peak + middle), float(low + middle), float(high + middle), len(x),
    )  # fmt: skip


def fit_settings(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures 3a and 9: a fit of each setting, and the curves to draw.

    points: setting, T_eff, estimate. Returns (setting, points, a, b, c, r2, peak, low, high,
    inside) in the order of the points, NaN where there are too few for a fit, and (setting, T_eff,
    estimate). inside: whether there is a peak and it lies within the points.
    """
    fits, curves = [], []
    for setting, part in points.groupby("setting", sort=False):
        try:
            fit = fit_quadratic(part["T_eff"], part["estimate"])
        except UserError:
            fits.append({"setting": setting, "points": len(part), "inside": False})
            continue
        inside = bool(part["T_eff"].min() <= fit.peak <= part["T_eff"].max())
        fits.append({"setting": setting, "inside": inside, **fit._asdict()})
        x = np.linspace(part["T_eff"].min(), part["T_eff"].max(), 100)
        curves.append(pd.DataFrame({"setting": setting, "T_eff": x, "estimate": fit(x)}))
    columns = ["setting", "points", "a", "b", "c", "r2", "peak", "low", "high", "inside"]
    drawn = pd.concat(curves) if curves else pd.DataFrame(columns=["setting", "T_eff", "estimate"])
    return pd.DataFrame(fits).reindex(columns=columns), drawn


def grids(sweep: pd.DataFrame, group: str, k: int) -> dict[str, pd.DataFrame]:
    """Figures 3b, 10, 11: by setting, pass@k over T_train (rows) x T_eval, NaN where not run.

    Raises UserError for two models with the same training settings, or none.
    """
    rows = with_effective_temperature(select(sweep, group, k))
    twice = rows.duplicated([*TRAIN, *EVAL])
    if twice.any():
        row = rows.loc[twice.idxmax()]
        raise UserError(
            f"two models of the sweep were trained at {decoding_of(row, TRAIN)}: "
            "a heat map shows one of them"
        )
    return {
        str(setting): part.pivot(index="T_train", columns="T_eval", values="estimate")
        for setting, part in rows.groupby("setting", sort=False)
    }


def _scores(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Rows of the sweep table as the figures take them, with their settings in words."""
    settings = [
        ("" if pd.isna(row["T_train"]) else f"trained at {decoding_of(row, TRAIN)}; ")
        + (f"{row['policy']}, " if row["policy"] else "")
        + f"evaluated at {decoding_of(row, EVAL)}"
        for _, row in rows.iterrows()
    ]
    frame = rows.rename(columns={"T_eval": "temperature"})
    frame = frame.assign(model=model, checkpoint=rows["model"], setting=settings)
    return frame[[*_SCORES, "checkpoint", "setting"]].infer_objects()


def _same(rows: pd.DataFrame, row: pd.Series, columns: list[str]) -> pd.DataFrame:
    """The rows that agree with `row` in `columns`; NaN (the base's training) agrees with NaN."""
    same = [(rows[c] == row[c]) | (rows[c].isna() & pd.isna(row[c])) for c in columns]
    return rows[np.logical_and.reduce(same)]


def _fieller(a: float, b: float, covariance: np.ndarray, t: float) -> tuple[float, float]:
    """All x at which the slope `2 a x + b` may be zero: `(2ax + b)^2 <= t^2 Var(2ax + b)`."""
    var_a, var_b, cov = covariance[0, 0], covariance[1, 1], covariance[0, 1]
    square = 4 * (a**2 - t**2 * var_a)
    linear = 4 * (a * b - t**2 * cov)
    constant = b**2 - t**2 * var_b
    if square <= 0:
        return float("nan"), float("nan")
    root = np.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    return (-linear - root) / (2 * square), (-linear + root) / (2 * square)

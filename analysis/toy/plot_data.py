"""The data of Figures 12-14: the toy machine and its solution as frames."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ssd_probe.analysis.toy.machine import Machine, policy
from ssd_probe.analysis.toy.solving import T_RANGE, pieces, success
from ssd_probe.decoding import Decoding


class ToyPictures(NamedTuple):
    """Figures 12-14 of one machine, and the settings that their captions name."""

    steps: pd.DataFrame  # Figure 12: position, times, right (ids)
    raw: pd.DataFrame  # `distributions`, nothing tempered or cut
    decoded: pd.DataFrame  # of each model at its optimum
    optima: dict[str, float]  # by model ("base", "ssd"): the best temperature
    fixed: dict[float, pd.DataFrame]  # Figure 14: `first_tokens` of both models by temperature
    curve: pd.DataFrame  # `success_curve` around these
    train: Decoding
    top_p: float  # of the evaluation


def toy_pictures(machine: Machine, solved: dict[str, Any]) -> ToyPictures:
    """A machine and its `solve`d optima -> all that Figures 12-14 show.

    Figure 14's temperatures are both optima and 1; its curve spans a quarter of the lowest to 1.4
    times the highest.
    """
    optima = {"base": solved["base"]["temperature"], "ssd": solved["student"]["temperature"]}
    shown = sorted({1.0, *optima.values()})
    low, high = max(min(shown) / 4, T_RANGE[0]), min(1.4 * max(shown), T_RANGE[1])
    return ToyPictures(
        steps=pd.DataFrame(
            [(s.name, s.times, list(s.right)) for s in machine.positions],
            columns=["position", "times", "right"],
        ),
        raw=distributions(machine),
        decoded=distributions(machine, optima),
        optima=optima,
        fixed={t: first_tokens(distributions(machine, dict.fromkeys(optima, t))) for t in shown},
        curve=success_curve(machine, low, high),
        train=machine.train,
        top_p=machine.evaluation.top_p,
    )


def success_curve(machine: Machine, low: float, high: float, points: int = 400) -> pd.DataFrame:
    """P against T for a plot: model, piece, temperature, success; both ends of every piece."""
    frames = []
    for model, positions in (("base", machine.positions), ("ssd", machine.student())):
        for i, (first, last) in enumerate(pieces(positions, machine.evaluation)):
            first, last = max(first, low), min(last, high)
            if first <= last:
                n = 2 + int(points * (last - first) / (high - low))
                t = np.linspace(first, last, n)
                p = success(positions, t, machine.evaluation)
                frame = pd.DataFrame({"temperature": t, "success": p})
                frames.append(frame.assign(model=model, piece=i))
    return pd.concat(frames, ignore_index=True)


def distributions(machine: Machine, temperatures: dict[str, float] | None = None) -> pd.DataFrame:
    """Long form for a plot: model, position, token, probability, right.

    temperatures: by model ("base", "ssd"), decoded by `machine.evaluation`; without it, the
    distributions themselves, nothing tempered or cut.
    """
    rows = []
    for model, positions in (("base", machine.positions), ("ssd", machine.student())):
        for s in positions:
            q = s.probabilities
            if temperatures is not None:
                q = policy(s, [temperatures[model]], machine.evaluation)[0]
            columns = {"token": np.arange(len(q)), "probability": q}
            right = np.isin(columns["token"], s.right)
            rows.append(pd.DataFrame(columns).assign(model=model, position=s.name, right=right))
    return pd.concat(rows, ignore_index=True)


def first_tokens(frame: pd.DataFrame, rows: int = 5) -> pd.DataFrame:
    """`distributions` with all but the `rows` first tokens of a position as one row, "others"."""
    names = np.where(frame["token"] < rows, "tok" + frame["token"].astype(str), "others")
    groups = frame.assign(row=names).groupby(["model", "position", "row"], sort=False)
    return groups.agg({"probability": "sum", "right": "any"}).reset_index()

"""`ssd-probe power`: from a pilot, how many problems and answers tell a difference in pass@1."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssd_probe.analysis.passk import count_passes
from ssd_probe.analysis.power import POWER, Spread, paired_spread, resampled, unpaired_spreads
from ssd_probe.commands.loop.declaration import BASE
from ssd_probe.commands.loop.trials import test_cells
from ssd_probe.commands.run_folder import RunFolder, as_written
from ssd_probe.commands.sweep import verdicts
from ssd_probe.errors import UserError
from ssd_probe.files.record import read_object

ENDS = (0.025, 0.975)
SAMPLES = (1, 2, 3, 5, 10, 20, 50)


@dataclass(frozen=True)
class Pilot:
    """Evaluations of a base and, where there is one, of another model; a row an answer."""

    base: pd.DataFrame
    tuned: pd.DataFrame | None
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path, other: Path | None = None) -> "Pilot":
        """Of a run's folder: its test of the base and the main arm; else results of `evaluate`.

        Errors: `UserError` for a run that was not tested, a file that `evaluate --out` did not
        write, or `other` beside a run.
        """
        if not path.is_dir():
            names = tuple(each.stem for each in (path, other) if each)
            return cls(_evaluated(path), _evaluated(other) if other else None, names)
        if other:
            raise UserError(f"{path}: a run has its own two models; leave {other} out")
        folder = RunFolder.load(path)
        with as_written(path):
            choice = folder.choice()
            cells = test_cells(folder, choice)[1]
            found = [cells[name][0] for name in (BASE, choice["main"])]
        if not all(cell.evaluation.exists() for cell in found):
            raise UserError(f"{path}: stopped before its models were tested; run it again")
        return cls(verdicts(found[0]), verdicts(found[1]), (BASE, choice["main"]))


def power_stage(pilot: Pilot, difference: float, power: float = POWER, seed: int = 0) -> dict:
    """What `pilot` tells of larger or smaller trials, as rows with an interval.

    Returns names, problems and samples of the pilot (samples: the fewest of a problem), difference,
    power, `between` and `within` (see `Spread`; None and one model's doubled with one model),
    `now` (the chance that the pilot's own size tells `difference` from none), `resolvable` (by
    samples, the least difference told at the pilot's problems) and `problems_for` (by samples, for
    `difference`; samples None: without end, where None is what no pilot without a variation
    between its problems can say). low, high: 95 % bootstrap over the pilot's problems;
    with one model the least and the most that it leaves open, and no estimate.
    """
    if not 0 < abs(difference) < 1:
        raise UserError(f"difference = {difference:g}: must be between 0 and 1, and not 0")
    if not 0.05 < power < 1:
        raise UserError(f"power = {power:g}: must be above 0.05 and below 1")
    if pilot.tuned is None:
        point, spreads = None, list(unpaired_spreads(pilot.base, difference))
        problems, within = spreads[0].problems, spreads[0].within
    else:
        point = paired_spread(pilot.base, pilot.tuned)
        spreads = resampled(pilot.base, pilot.tuned, seed=seed)
        problems, within = point.problems, point.within
    sides = [side for side in (pilot.base, pilot.tuned) if side is not None]
    own = min(int(count_passes(side)["n"].min()) for side in sides)
    samples = sorted({*SAMPLES, own})

    def row(value: Callable[[Spread], Any]) -> dict[str, Any]:
        values = np.array([float(value(spread)) for spread in spreads])
        # What is not known is below all: there a spread was 0.
        ordered = np.nan_to_num(values, nan=-np.inf)
        ends = np.quantile(ordered, ENDS, method="nearest") if point else np.sort(ordered)
        estimate = float(value(point)) if point else None
        named = {"estimate": estimate, "low": float(ends[0]), "high": float(ends[-1])}
        return {n: v if v is not None and np.isfinite(v) else None for n, v in named.items()}

    return {
        **{"names": list(pilot.names), "problems": problems, "samples": own},
        **{"difference": difference, "power": power},
        **{"between": point and point.between, "within": within},
        "now": row(lambda spread: spread.power(difference, problems, own)),
        "resolvable": [
            {
                "samples": n,
                **row(partial(Spread.resolvable, problems=problems, samples=n, power=power)),
            }
            for n in samples
        ],
        "problems_for": [
            {
                "samples": n,
                **row(
                    partial(
                        Spread.problems_for, difference=difference, samples=n or np.inf, power=power
                    )
                ),
            }
            for n in (*samples, None)
        ],
    }


def _evaluated(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a run's folder, or what `evaluate --out` left")
    results = read_object(path).get("results")
    with as_written(path):
        frame = pd.DataFrame(results)[["task_id", "verdict"]].rename(
            columns={"task_id": "problem_id"}
        )
        return frame.assign(sample=frame.groupby("problem_id").cumcount())

"""`ssd-probe figures`: every figure that a run or a sweep has data for."""

from pathlib import Path

import pandas as pd

from ssd_probe.analysis.digest import digest
from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.passk import pass_curves
from ssd_probe.analysis.sweeps.plot_data import sweep_pictures
from ssd_probe.analysis.sweeps.printed import sweep_table, table_2, write_table
from ssd_probe.analysis.sweeps.published import published_pictures
from ssd_probe.analysis.sweeps.table import read_sweep
from ssd_probe.commands.compare import paired_parts
from ssd_probe.commands.run_folder import PROBED, PROGRAMS
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.comparison_set import draw_digest, draw_passes
from ssd_probe.figures.saving import Saved
from ssd_probe.figures.sweep_set import draw_published, draw_sweep
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import read_record
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.probing.table import Probe


def figures_stage(
    run: Path | None, sweep: Path | None, published: bool, out: Path | None
) -> list[str]:
    """Draw what there is data for; the files, then what is missing and why."""
    if run is None and sweep is None and not published:
        raise UserError("nothing to draw: give a run folder, --sweep FILE, or --published")
    if out is None and run is None:
        raise UserError("--sweep and --published need --out, the folder to draw into")
    out = out or Path(str(run)) / "figures"
    table = None if sweep is None else read_sweep(sweep)
    paths: list[Path] = []
    missing: list[tuple[str, str]] = []
    if run is not None:
        drawn = draw_figures(run, out)
        paths, missing = paths + drawn.paths, missing + drawn.missing
    if table is not None:
        drawn = draw_sweep(sweep_pictures(table), out)
        paths, missing = paths + drawn.paths, missing + drawn.missing
        paths += write_table(sweep_table(table), out / "sweep")
    if published:
        shown = published_pictures(table)
        drawn = draw_published(shown, out)
        paths, missing = paths + drawn.paths, missing + drawn.missing
        paths += write_table(table_2(shown.scores), out / "published_table_2")
    return Saved(paths, missing).lines()


_ELSEWHERE = (  # the paper's other figures, and what draws them
    ("fig_1, 3, 7, 9-11, 15", "need a grid of settings: `ssd-probe sweep`, then `figures --sweep`"),
    ("fig_12-14", "need no run: `ssd-probe toy --out DIR`"),
)


def draw_figures(run: Path, out: Path | None = None) -> Saved:
    """Draw every figure from what the demo's run folder holds into `out`, or its folder figures.

    Missing is also the rest of the paper's. Raises UserError if `run` is not a demo's run, or was
    stopped before its models were probed.
    """
    decoding = _train_decoding(run)
    out = out or run / "figures"
    base, tuned = (Probe.load(run / "probes" / name) for name in PROBED)
    programs = len(read_jsonl(run / PROGRAMS))
    found = digest(
        paired_parts(base, tuned),
        SupportRule(),
        decoding,
        where=f"{len(base)} positions of {programs} noise-free test programs",
        names=PROBED,
        tokenizer=load_tokenizer("tiny"),
    )
    curves = _dev_curves(run)
    if curves is None:
        passes = Saved([], [("fig_2", "no dev sweep has been evaluated")])
    else:
        passes = draw_passes(curves, decoding, out)
    drawn = draw_digest(found, out)
    return Saved(passes.paths + drawn.paths, [*passes.missing, *drawn.missing, *_ELSEWHERE])


def _train_decoding(run: Path) -> Decoding:
    """What the run's student was trained at. Raises UserError if it is not a run of the demo."""
    record = run / "run.json"
    if not record.is_file():
        raise UserError(f"{run}: not a run (no run.json); make one with `ssd-probe demo`")
    try:
        train = read_record(record)["settings"]["demo"]["train_decoding"]
        return Decoding(train["temperature"], train["top_k"], train["top_p"])
    except (KeyError, TypeError):
        raise UserError(
            f"{run}: not a run of `ssd-probe demo` (run.json has no demo.train_decoding); for "
            "probes use `compare --out`, for a sweep `figures --sweep`"
        ) from None


def _dev_curves(run: Path) -> pd.DataFrame | None:
    """pass@k against T_eval, from whatever part of the dev sweep has been evaluated."""
    files = sorted((run / "evaluations").glob("dev-*.jsonl"))
    if not files:
        return None
    for file in files:
        needed = ["model", "temperature", "problem_id"]
        require_columns(pd.DataFrame(read_jsonl(file)), needed, str(file))
    sweep = pd.DataFrame([row for file in files for row in read_jsonl(file)])
    return pass_curves(sweep, ks=_possible_ks(sweep), by=None)


def _possible_ks(results: pd.DataFrame) -> tuple[int, ...]:
    fewest = results.groupby(["model", "temperature", "problem_id"]).size().min()
    return tuple(k for k in (1, 5) if k <= fewest)

"""`ssd-probe figures`: every figure that a run or a sweep has data for."""

from pathlib import Path

from ssd_probe.analysis.sweeps.plot_data import sweep_pictures
from ssd_probe.analysis.sweeps.printed import sweep_table, table_2, write_table
from ssd_probe.analysis.sweeps.published import published_pictures
from ssd_probe.analysis.sweeps.table import read_sweep
from ssd_probe.commands.loop.opened import digest_of
from ssd_probe.commands.loop.trials import tested_passes
from ssd_probe.commands.run_folder import RunFolder, dev_curves
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.comparison_set import draw_digest, draw_passes, draw_tested
from ssd_probe.figures.saving import Saved
from ssd_probe.figures.sweep_set import draw_published, draw_sweep
from ssd_probe.files.record import read_record


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
    """Draw every figure from what a run of the loop holds into `out`, or its folder figures.

    Base and main arm on the run's first text. Missing is also the rest of the paper's. Raises
    UserError if `run` is no such run, or was stopped before its models were probed.
    """
    folder = RunFolder.load(run)
    loop, out = folder.loop, out or run / "figures"
    main = folder.choice()["main"]
    doubts = read_record(run / "run.json").get("doubts", [])
    found = digest_of(folder, main, main, loop.texts[0])
    curves = dev_curves(folder)
    if curves is None:
        passes = Saved([], [("fig_2", "no dev sweep has been evaluated")])
    else:
        shown = Decoding(1.0, loop.top_k_eval, loop.top_p_eval)  # every T_eval's truncation
        passes = draw_passes(curves, shown, out, doubts, [rival.name for rival in loop.rivals])
    tested = Saved([], [])
    if loop.rivals:
        tested = draw_tested(tested_passes(folder, folder.choice()), main, out, doubts)
    drawn = draw_digest(found, out, doubts)
    paths = passes.paths + tested.paths + drawn.paths
    return Saved(paths, [*passes.missing, *tested.missing, *drawn.missing, *_ELSEWHERE])

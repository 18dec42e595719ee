"""`ssd-probe figures`: every figure that a run or a sweep has data for."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssd_probe.analysis.digest import digest
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.passk import pass_curves
from ssd_probe.commands.run_folder import PROBED, PROGRAMS
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures import sweeps as sweep_figures
from ssd_probe.figures.draw_probes import draw_digest
from ssd_probe.figures.saving import save
from ssd_probe.figures.style import figure_of, paper_style
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import read_record
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.probing.table import Probe


def figures_stage(
    run: Path | None, sweep: Path | None, published: bool, out: Path | None
) -> list[str]:
    """Draw what there is data for; the files, then what is missing and why."""
    from ssd_probe.analysis.sweeps.table import read_sweep
    from ssd_probe.figures.draw_sweeps import draw_published, draw_sweep

    if run is None and sweep is None and not published:
        raise UserError("nothing to draw: give a run folder, --sweep FILE, or --published")
    if out is None and (sweep or published):
        if run is None:
            raise UserError("--sweep and --published need --out, the folder to draw into")
        out = run / "figures"
    table = None if sweep is None else read_sweep(sweep)
    paths: list[Path] = []
    missing: list[tuple[str, str]] = []
    if run is not None:
        drawn, lacking = draw_figures(run, out)
        paths, missing = paths + drawn, missing + lacking
    if table is not None and out is not None:
        drawn, lacking = draw_sweep(table, out)
        paths, missing = paths + drawn, missing + lacking
    if published and out is not None:
        paths += draw_published(out, table)
    return [*map(str, paths), *(f"no {name}: {why}" for name, why in missing)]


_ELSEWHERE = (  # the paper's other figures, and what draws them
    ("fig_1, 3, 7, 9-11, 15", "need a grid of settings: `ssd-probe sweep`, then `figures --sweep`"),
    ("fig_12-14", "need no run: `ssd-probe toy --out DIR`"),
)


def draw_figures(run: Path, out: Path | None = None) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw every figure from what the run folder holds into `out`, or its folder figures.

    Returns the PNG files, and (figure, why it is missing) for the rest of the paper's.
    Errors: `UserError` if `run` is not a run, or was stopped before its models were probed.
    """
    if not (run / "run.json").exists():
        raise UserError(f"{run}: not a run (no run.json); make one with `ssd-probe demo`")
    train = read_record(run / "run.json")["settings"]["demo"]["train_decoding"]
    decoding = Decoding(train["temperature"], train["top_k"], train["top_p"])
    out = out or run / "figures"
    paths: list[Path] = []
    missing: list[tuple[str, str]] = []
    with paper_style():
        for stem, figure, caption in _sweep_figures(run, decoding):
            paths.append(save(figure, out / stem, caption)[0])
            plt.close(figure)
    if not paths:
        missing.append(("fig_2", "no dev sweep has been evaluated"))
    base, tuned = (Probe.load(run / "probes" / name) for name in PROBED)
    found = digest(
        zip(base.batches(), tuned.batches(), strict=True), SupportRule(decoding), decoding,
        names=PROBED,
    )  # fmt: skip
    programs = len(read_jsonl(run / PROGRAMS))
    where = f"{len(base)} positions of {programs} noise-free test programs"
    drawn, lacking = draw_digest(found, out, where, decoding, load_tokenizer("tiny"))
    return paths + drawn, missing + lacking + list(_ELSEWHERE)


def _sweep_figures(run: Path, decoding: Decoding) -> Iterator[tuple[str, Figure, str]]:
    """Figure 2, from whatever part of the dev sweep has been evaluated."""
    files = sorted((run / "evaluations").glob("dev-*.jsonl"))
    if not files:
        return
    sweep = pd.DataFrame([row for file in files for row in read_jsonl(file)])
    curves = pass_curves(sweep, ks=_possible_ks(sweep), by=None)
    for k, rows in curves.groupby("k"):
        caption = (
            f"Figure 2. pass@{k} on {rows['problems'].iloc[0]} dev problems against T_eval, with "
            f"top-k {decoding.top_k}, top-p {decoding.top_p:g} for every model; bands: 95 % "
            "bootstrap over problems; stars: each model's best."
        )
        yield f"fig_2_pass{k}", figure_of(sweep_figures.fig_2(rows)), caption


def _possible_ks(results: pd.DataFrame) -> tuple[int, ...]:
    fewest = results.groupby(["model", "temperature", "problem_id"]).size().min()
    return tuple(k for k in (1, 5) if k <= fewest)

"""What a finished run has to say: its figures, and a summary in plain language."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssd_probe import figures, sweep_figures
from ssd_probe.analysis.digest import digest
from ssd_probe.analysis.labels import FORK, LOCK, SupportRule
from ssd_probe.analysis.passk import pass_curves
from ssd_probe.checkpoints import load_tokenizer
from ssd_probe.data import read_jsonl
from ssd_probe.decoding import Decoding
from ssd_probe.draw_probes import draw_digest
from ssd_probe.errors import UserError
from ssd_probe.figures import figure_of
from ssd_probe.probe import Probe
from ssd_probe.run import read_record
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import true_labels

PROBED = ("base", "ssd")
_ELSEWHERE = (  # the paper's other figures, and what draws them
    ("fig_1, 3, 7, 9-11, 15", "need a grid of settings: `ssd-probe sweep`, then `figures --sweep`"),
    ("fig_12-14", "need no run: `ssd-probe toy --out DIR`"),
)
PROGRAMS = Path("samples") / "programs.jsonl"  # what both are probed on, in the run folder


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
    with figures.paper_style():
        for stem, figure, caption in _sweep_figures(run, decoding):
            paths.append(figures.save(figure, out / stem, caption)[0])
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


def labelled_probe(run: Path, name: str) -> pd.DataFrame:
    """A probe of the run with the column `truth`: the true fork and lock labels of the domain."""
    frame = Probe.load(run / "probes" / name).frame
    rows = read_jsonl(run / PROGRAMS)
    known = {problem.problem_id: problem for problem in domain.problems("test")}
    problems = [known[row["problem_id"]] for row in rows]
    truth = true_labels(load_tokenizer("tiny"), problems, rows)
    return frame.merge(truth, on=["sample_id", "position"], how="left")


def tell(summary: dict, run: Path) -> str:
    """The summary as a person reads it."""
    lines = ["", "What simple self-distillation did to the bundled model", ""]
    lines += _tell_positions(summary["comparison"])
    lines += ["", *_tell_passes(summary), ""]
    lines += [f"figures: {run / 'figures'}", f"numbers: {run / 'summary.json'}"]
    return "\n".join(lines)


def _tell_positions(comparison: list[dict]) -> list[str]:
    rows = {(row["label"], row["statistic"]): row for row in comparison}

    def change(label: str, statistic: str, digits: int) -> str:
        row = rows[label, statistic]
        return (
            f"{row['base']:.{digits}f} -> {row['tuned']:.{digits}f} "
            f"({row['difference']:+.{digits}f} [{row['low']:+.{digits}f}, "
            f"{row['high']:+.{digits}f}])"
        )

    return [
        f"At {rows[LOCK, 'entropy']['positions']} locks (one right token):",
        f"  entropy (nats)      {change(LOCK, 'entropy', 4)}",
        f"  distractor tail     {change(LOCK, 'tail_mass', 4)}",
        f"At {rows[FORK, 'entropy']['positions']} forks (several good tokens):",
        f"  entropy (nats)      {change(FORK, 'entropy', 3)}",
        f"  head entropy (nats) {change(FORK, 'head_entropy', 3)}",
        f"  branching           {change(FORK, 'branching', 3)}",
    ]


def _tell_passes(summary: dict) -> list[str]:
    table = {(row["model"], row["group"], row["k"]): row for row in summary["pass_at_k"]}
    gains = {(row["model"], row["group"], row["k"]): row for row in summary["differences"]}
    best = summary["best_temperature"]
    problems = table["base", "all", 1]["problems"]
    lines = [
        f"On {problems} held-out problems, each model at the T_eval that was best for it on the "
        "dev split",
        f"(base {best['base']:g}, SSD {best['ssd']:g}, control {best['control']:g}; same "
        "truncation; 95 % intervals over problems):",
        f"{'':14}{'base':>22}{'SSD':>22}{'SSD - base':>26}{'control - base':>26}",
    ]
    for group, k in [(g, k) for k in (1, 5) for g in ("all", *domain.DIFFICULTIES)]:
        cells = [_cell(table[model, group, k], "estimate") for model in ("base", "ssd")]
        cells += [_cell(gains[model, group, k], "estimate", "+") for model in ("ssd", "control")]
        lines.append(f"pass@{k} {group:<7}{cells[0]:>22}{cells[1]:>22}{cells[2]:>26}{cells[3]:>26}")
    return lines


def _cell(row: dict, name: str, sign: str = "") -> str:
    return f"{row[name]:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"

"""What the demo's run folder holds, and its probes with the domain's true labels."""

from pathlib import Path

import pandas as pd

from ssd_probe.files.reading import read_jsonl
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.probing.table import Probe
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import true_labels

PROBED = ("base", "ssd")


PROGRAMS = Path("samples") / "programs.jsonl"  # what both are probed on, in the run folder


def labelled_probe(run: Path, name: str) -> pd.DataFrame:
    """A probe of the run with the column `truth`: the true fork and lock labels of the domain."""
    frame = Probe.load(run / "probes" / name).frame
    rows = read_jsonl(run / PROGRAMS)
    known = {problem.problem_id: problem for problem in domain.problems("test")}
    problems = [known[row["problem_id"]] for row in rows]
    truth = true_labels(load_tokenizer("tiny"), problems, rows)
    return frame.merge(truth, on=["sample_id", "position"], how="left")

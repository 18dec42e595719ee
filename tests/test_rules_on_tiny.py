"""The rules against the bundled domain's true forks and locks: the numbers of docs/results.md."""

import pytest

from ssd_probe.analysis.labels import FORK, LOCK, EntropyRule, QuantileRule, SupportRule
from ssd_probe.analysis.scoring import agreement, score_against_truth
from ssd_probe.commands.loop.demo import demo_config
from ssd_probe.commands.loop.positions import probe_model, write_programs
from ssd_probe.commands.run_folder import RunFolder, labelled_probe

PRINTED = {  # F1 of forks and of locks on 240 programs; here fewer, hence the tolerances
    "support": (SupportRule(), 1.0, 1.0, 0.01),
    "entropy": (EntropyRule(), 0.73, 1.0, 0.08),
    "quantile": (QuantileRule(), 0.78, 0.73, 0.08),
}


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    folder = RunFolder(out, demo_config(quick=True).loop)
    write_programs(folder)
    probe_model(folder, "base", str(folder.programs("tiny:test")), out / "probes" / "base")
    known = labelled_probe(out, "base")
    return known[known["truth"].isin([FORK, LOCK])]


@pytest.mark.parametrize("name", PRINTED)
def test_the_table_of_the_results(frame, name):
    rule, fork_f1, lock_f1, tolerance = PRINTED[name]
    found = score_against_truth(rule.label(frame), frame["truth"], rule.score(frame))
    scores = found.set_index("label")
    assert scores.loc[FORK, "f1"] == pytest.approx(fork_f1, abs=tolerance)
    assert scores.loc[LOCK, "f1"] == pytest.approx(lock_f1, abs=tolerance)
    assert (scores["auc"] > 0.999).all()


def test_what_the_rules_agree_on(frame):
    labels = {name: row[0].label(frame) for name, row in PRINTED.items()}
    kappa = agreement(labels).set_index(["first", "second"])["kappa"]
    assert kappa["support", "entropy"] == pytest.approx(0.76, abs=0.1)
    assert kappa["support", "quantile"] == pytest.approx(0.31, abs=0.1)

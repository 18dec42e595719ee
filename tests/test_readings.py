"""The sentences under the figures, and a run opened in Python."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from ssd_probe import Run, UserError
from ssd_probe.analysis.frames import Missing
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.decoding import Decoding
from ssd_probe.figures.comparison_set import draw_digest
from ssd_probe.views.readings import read_gains, read_out, read_passes

DATA = Path(__file__).parents[1] / "docs" / "data"


@pytest.fixture(scope="module")
def run(demo_run):
    return Run.load(demo_run[0])


@pytest.fixture(scope="module")
def found(run):
    return run.compare()


class TestRun:
    def test_it_holds_what_the_run_measured(self, run, found, demo_run):
        assert run.models == ["base", "ssd"] and run.main == "ssd" and run.texts == ("tiny:test",)
        assert run.decoding() == Decoding(1.6, 20, 0.8) == found.decoding
        assert len(run.probe("main")) == len(run.probe("ssd")) == len(run.probe())
        assert found.where == f"{len(run.probe()):,} positions of {run.about()}"
        frame = run.frame("ssd")
        assert frame["truth"].isin(["lock", "fork"]).mean() > 0.9
        assert frame["token_id"].tolist() == run.probe("ssd").frame["token_id"].tolist()
        assert run.summary == json.loads((demo_run[0] / "summary.json").read_text())
        assert run.source() == str(demo_run[0] / "samples" / "programs.jsonl")
        assert run.branched() is None

    def test_what_became_of_forced_tokens(self, run, tmp_path):
        (tmp_path / "branch").mkdir()
        for name, file in (("branches", "smollm2"), ("positions", "smollm2-positions")):
            data = (DATA / f"branch-{file}.parquet").read_bytes()
            (tmp_path / "branch" / f"{name}.parquet").write_bytes(data)
        found = dataclasses.replace(run, folder=RunFolder(tmp_path, run.folder.loop)).branched()
        assert len(found.positions) == 660 and found.branches["runs"].sum() == 10_593

    def test_one_of_two_texts(self, odd_run):
        run = Run.load(odd_run[0])
        assert len(run.probe(text="tiny:test")) != len(run.probe()) and len(run.texts) == 2
        assert "truth" in run.frame() and "truth" not in run.frame(text="tiny:test")
        assert run.dev_curves() is None

    @pytest.mark.parametrize(("call", "match"), [
        (lambda run: run.probe("control"), "was not probed; known: main, base, ssd"),
        (lambda run: run.probe("base", "basics"), "no text 'basics'; known: tiny:test"),
        (lambda run: run.compare("base"), "base: no student"),
        (lambda run: Run.load(run.folder.out / "probes" / "base"), "not a run"),
    ])  # fmt: skip
    def test_what_it_lacks_is_said(self, run, call, match):
        with pytest.raises(UserError, match=match):
            call(run)

    def test_an_unfinished_one_is_refused(self, run, tmp_path):
        (tmp_path / "run.json").write_text((run.folder.out / "run.json").read_text())
        with pytest.raises(UserError, match="not finished; run the same command again"):
            Run.load(tmp_path)


class TestReadOut:
    def test_every_figure_of_a_comparison_is_read(self, found, tmp_path):
        told = read_out(found)
        assert {path.stem for path in draw_digest(found, tmp_path).paths} == set(told)
        for sentence in told.values():
            assert sentence[0].isupper() or sentence.startswith("T=") or sentence[0].isdigit()
            assert sentence.endswith(".") and "\n" not in sentence and "nan" not in sentence

    def test_numbers_and_direction_are_those_of_the_data(self, found):
        ranks = pd.DataFrame({
            "label": ["fork"] * 4 + ["lock"] * 4, "model": (["base"] * 2 + ["tuned"] * 2) * 2,
            "rank": [1, 2] * 4, "token_id": [7, 8, 8, 9, 1, 2, 1, 2],
            "token": ["a", " b", " b", "c", "x", "y", "x", "y"],
            "probability": [0.6, 0.3, 0.5, 0.4, 0.75, 0.2, 0.5, 0.4],
        })  # fmt: skip
        assert read_out(found._replace(ranked=ranks))["fig_5"] == (
            "At the fork, beside ‘a’, the second token ‘␣b’ has 0.3 (base) and 0.5 (tuned), more; "
            "at the lock all tokens but ‘x’ have 0.25 (base) and 0.5 (tuned), more."
        )
        mass = pd.DataFrame(
            {"model": ["base", "tuned"] * 2, "rank": [1, 1, 10, 10], "miss": [0.5, 0.4, 0.1, 0.097]}
        )
        assert read_out(found._replace(mass=mass))["fig_6a"] == (
            "Beyond the first 10 ranks lies a mean mass of 0.1 (base) and 0.097 (tuned), about as "
            "much."
        )
        curves = pd.DataFrame({
            "model": ["base", "base", "tuned", "tuned"], "temperature": [1.0, 1.5, 1.0, 1.5],
            "survivors": [2.0, 4.0, 2.0, 3.0], "entropy": [0.5, 0.6, 1.0, 0.6],
        })  # fmt: skip
        told = read_out(found._replace(curves=curves))
        assert told["fig_6b"].endswith(
            "1.5: on average tokens that survive: 4 (base) and 3 (tuned), less."
        )  # noqa: E501
        assert told["fig_6c"].endswith(
            "1: on average nats that are left: 0.5 (base) and 1 (tuned), more."
        )  # noqa: E501
        loss = pd.DataFrame({
            "label": ["lock"] * 2, "model": ["base", "tuned"],
            "outside": [0.1, 0.05], "inside": [0.1, 0.2], "positions": 2_000,
        })  # fmt: skip
        told = read_out(found._replace(loss=loss))["loss_terms"]
        assert "lock 0.2000 -> 0.2500 nats (25% farther)" in told
        told = read_out(found._replace(loss=loss.assign(positions=1)))["loss_terms"]
        assert "lock 0.2000 -> 0.2500 nats (25% farther, 1 positions only)" in told

    def test_what_is_missing_says_why(self, found):
        why = read_out(found._replace(ranked=Missing("the first part of the probe holds no fork")))
        assert why["fig_5"] == "No figure: the first part of the probe holds no fork."
        assert read_out(found)["fig_5"].startswith("At the fork")

    def test_passes_name_best_and_worst(self):
        rows = [("base", 1.0, 0.2), ("base", 1.6, 0.3), ("ssd", 1.0, 0.4), ("ssd", 1.6, 0.1)]
        curves = pd.DataFrame(rows, columns=["model", "temperature", "estimate"])
        assert read_passes(curves.assign(k=1, problems=6)) == (
            "pass@1 on 6 dev problems: base has 0.300 at T_eval 1.6 and 0.200 at 1; ssd has 0.400 "
            "at T_eval 1 and 0.100 at 1.6."
        )


def test_what_each_group_gained_and_what_is_told_from_none():
    row = {"k": 1, "base": 0.3, "tuned": 0.4, "estimate": 0.1, "problems": 9}
    gains = pd.DataFrame([
        row | {"group": "all", "low": 0.05, "high": 0.15},
        row | {"group": "hard", "low": -0.1, "high": 0.3},
        row | {"group": "easy", "low": None, "high": None},
    ])  # fmt: skip
    assert read_gains(gains) == (
        "pass@1 on the test problems: all 0.300 -> 0.400 (+0.100, 9 problems); hard 0.300 -> 0.400 "
        "(+0.100, 9 problems); easy 0.300 -> 0.400 (+0.100, 9 problems). "
        "By the 95 % intervals told from no difference: all."
    )
    assert read_gains(gains[1:]).endswith("By the 95 % intervals none is told from none.")

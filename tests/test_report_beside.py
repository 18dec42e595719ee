"""What a run's report sets beside each other: from a run's files as they would be, made by hand."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from ssd_probe.commands.loop.declaration import BASE, Arm, Loop, Trial
from ssd_probe.commands.reporting.beside import (
    at_equal_temperatures,
    predicted_and_came,
    probed_arms,
    unprobed,
)
from ssd_probe.commands.reporting.trials import worked
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.views.report.content import Notes, Table
from ssd_probe.views.report.terms import COMPARED, PROBED, RUN, VIEWED
from ssd_probe.views.story import answers

ARMS = (Arm("a", Decoding(1.0, 20, 0.8)), Arm("b", Decoding(1.6, 20, 0.8)), Arm("c", Decoding()))
LOOP = Loop(
    "tiny", "tiny:ssd", ARMS, (0.5, 1.0), Trial("tiny:test", 2), Trial("tiny:dev", 2, limit=4),
    probed=(BASE, "a", "c"), predict=True,
)  # fmt: skip
PASSES = {BASE: {0.5: "1000", 1.0: "1100"}, "a": {0.5: "1110", 1.0: "1100"},
          "b": {0.5: "0000", 1.0: "1111"}, "c": {0.5: "1000"}}  # fmt: skip


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run whose dev sweep has every cell but the control's at T_eval 1."""
    folder = RunFolder(tmp_path, LOOP)
    for cell in folder.dev_cells():
        passed = PASSES[cell.trained.name].get(cell.decoding.temperature)
        if passed is None:
            continue
        rows = [
            {"sample_id": f"p{i}/{n}", "sample": n, "problem_id": f"p{i}", "task_id": f"p{i}",
             "difficulty": "easy", "verdict": "pass" if one == "1" else "wrong", "detail": ""}
            for i, one in enumerate(passed) for n in range(2)
        ]  # fmt: skip
        cell.evaluation.parent.mkdir(parents=True, exist_ok=True)
        cell.evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_at_each_temperature_the_differences_there(run):
    said, table = at_equal_temperatures(summary(), run)
    assert isinstance(table, Table) and "on the 4 dev problems" in said.text
    assert said.text.endswith("answered at each model's own T_eval only.")
    alike = summary() | {"best_temperature": {BASE: 0.5, "a": 0.5}}
    assert "at T_eval 0.5 by all" in at_equal_temperatures(alike, run)[0].text
    frame = table.frame.set_index("T_eval")
    assert frame[BASE].to_dict() == {"0.5": "0.250", "1": "0.500"}
    number = frame.map(lambda cell: float(cell.split()[0]) if cell else None)
    assert number["a - base"].to_dict() == {"0.5": 0.5, "1": 0.0}
    assert number["b - base"].to_dict() == {"0.5": -0.25, "1": 0.5}
    assert frame.loc["1", "c - base"] == "" and number.loc["0.5", "c - base"] == 0


def test_without_a_sweep_of_dev_there_is_no_table(tmp_path, run):
    for without in (RunFolder(tmp_path / "other", LOOP),
                    RunFolder(run.out, dataclasses.replace(LOOP, dev=None))):  # fmt: skip
        assert at_equal_temperatures(summary(), without) == []


def summary() -> dict:
    def passed(model: str, estimate: float) -> dict:
        ends = {"low": estimate - 0.05, "high": estimate + 0.05, "problems": 9}
        return {"model": model, "group": "all", "k": 1, "estimate": estimate, **ends}

    def changed(statistic: str, by: float) -> dict:
        ends = {"low": by - 0.01, "high": by + 0.01}
        return {"label": "lock", "statistic": statistic, "difference": by, **ends}

    return {
        "main": "a", "best_temperature": {BASE: 0.5, "a": 0.5, "b": 1.0, "c": 0.5},
        "pass_at_k": [passed(BASE, 0.4), passed("a", 0.5), passed("b", 0.41), passed("c", 0.4)],
        "differences": [passed("a", 0.1), passed("b", 0.01), passed("c", 0.0)],
        "comparison": [changed("tail_mass", -0.2), changed("top1_agreement", 0)],
        "comparisons": [{"model": "c", "text": BASE, "table": [changed("tail_mass", 0.03)]}],
    }  # fmt: skip


def predicted(folder: Path) -> None:
    def row(setting: tuple, low: float | None, high: float, reach: float) -> dict:
        names = ("T_train", "top_k_train", "top_p_train")
        room = {"T_low": low, "T_high": high, "reach": reach, "feasible": low is not None}
        evaluated = {"top_k_eval": 20, "top_p_eval": 0.8}
        return dict(zip(names, setting, strict=True)) | evaluated | room

    rows = [row((1.6, 20, 0.8), 0.3, 0.9, 3.0), row((1.0, 20, 0.8), 0.4, 0.8, 2.0),
            row((None, None, None), None, 0.2, 1.2)]  # fmt: skip
    (folder / "prediction.json").write_text(json.dumps({"intervals": rows}))


def test_what_was_predicted_and_what_came(run):
    assert predicted_and_came(summary(), run) == []  # nothing was
    predicted(run.out)
    table, notes = predicted_and_came(summary() | {"prediction_check": ["Of a: so."]}, run)
    assert isinstance(table, Table) and isinstance(notes, Notes)
    frame = table.frame.set_index("model")
    assert list(frame.index) == [BASE, "a", "b"]  # the control is none of the predicted
    assert frame["predicted: T_eval for both"].tolist() == [
        "none: locks up to 0.20", "0.40 to 0.80", "0.30 to 0.90",
    ]  # fmt: skip
    assert frame["came: T_eval best on dev"].tolist() == ["0.5", "0.5", "1"]
    assert frame.loc["a", "less the base"].startswith("+0.100 [")
    order, served, checked = notes.lines
    assert "order is b, a, base; by pass@1 on test it is a, b, base" in order
    assert "1 of the 2 students is told from the base" in order
    assert "for 1 of 3 models" in served and checked == "Of a: so."
    null = summary()
    for row in null["differences"]:
        row |= {"low": -0.1, "high": 0.2}
    first = predicted_and_came(null, run)[1].lines[0]
    assert first.startswith("Most branching first, the prediction's order is b, a, base. No stud")
    assert first.endswith("so that no order can be tested here.")


def test_the_other_arms_probed_or_not(run):
    (table,) = probed_arms(summary(), run)
    assert isinstance(table, Table) and " Of b nothing is said" in unprobed(summary(), run)
    assert list(table.frame.columns) == [
        "label", "statistic", "a - base, support at T=1, top-k 20, top-p 0.8",
        "c - base, support at T=1, top-k 20, top-p 0.8",
    ]  # fmt: skip
    (row,) = table.frame.to_dict("records")  # of the statistics that are told first
    assert row["statistic"] == "tail mass" and list(row.values())[2].startswith("-0.200 [")
    alone = {**summary(), "comparisons": []}
    assert probed_arms(alone, run) == [] and " Of b, c nothing" in unprobed(alone, run)
    every = dataclasses.replace(LOOP, arms=ARMS[:1])
    assert unprobed(alone, RunFolder(run.out, every)) == ""


class TestAnswers:
    """The box at the top of a report, which a run's end says too."""

    DEV = [{"model": name, "temperature": t, "estimate": score}
           for name, scores in ((BASE, (0.4, 0.5)), ("a", (0.3, 0.4)), ("c", (0.4, 0.9)))
           for t, score in zip((0.5, 1.0), scores, strict=True)]  # fmt: skip

    def test_what_was_found_inside_is_there_in_words_and_counts_are_not(self):
        claims = {"locks lost their tail": True, "forks kept their head": False,
                  "T_eval gained leverage": None}  # fmt: skip
        told = answers(summary() | {"claims": claims, "verdicts": ["9 positions: so many."]})
        assert told[-1] == (
            "Inside a: locks (places with one token to choose) lost their tail: yes; forks (with "
            "several) kept their head: no; T_eval gained leverage (opens forks further before "
            "locks slip): undecided."
        )
        assert not any("9 positions" in line for line in told)

    def test_dev_is_told_where_it_says_otherwise_at_every_temperature(self):
        told = answers(summary() | {"dev": self.DEV})
        assert told[1] == (
            "The dev problems say otherwise: there a is below the base at every T_eval (0.5, 1)."
        )
        once = [row | {"estimate": 0.6} if row["model"] == "a" else row for row in self.DEV[:3]]
        for dev in ([], once, self.DEV[:2]):
            assert not any("otherwise" in line for line in answers(summary() | {"dev": dev}))
        lost = summary()
        lost["differences"][0]["estimate"] = -0.1  # then both say the same
        assert not any("otherwise" in line for line in answers(lost | {"dev": self.DEV}))

    def test_the_main_arm_less_its_control(self):
        row = {"model": "a", "over": "c", "group": "all", "k": 1, "estimate": 0.1, "low": 0.02}
        told = answers(summary() | {"over_controls": [row | {"high": 0.2}]})
        line = next(line for line in told if line.startswith("c (T_eval 0.5)"))
        assert line.endswith("; a less c +0.100 [+0.02, +0.20]: it helped.")


def test_lengths_and_the_control_stand_beside_pass_at_k(run):
    counted = {"answers": 18, "cut": 2, "looping": 0}
    row = {
        "model": "a",
        "over": "c",
        "group": "all",
        "k": 1,
        "estimate": 0.1,
        "low": 0,
        "high": 0.2,
    }
    more = {
        "answers": {BASE: counted | {"tokens": 95.31}, "a": counted | {"tokens": None}},
        "over_controls": [row], "tested_at": {},
    }  # fmt: skip
    _, scores, gains, *_ = worked(summary() | more, run)
    frame = scores.frame.set_index("")
    assert frame.loc["tokens an answer"].tolist() == ["95.3", "n/a", "", ""]
    assert frame.loc["cut at their longest", "base (T_eval 0.5)"] == "2 of 18"
    assert frame.loc["pass@1 all", "a (T_eval 0.5)"].startswith("0.500 [")
    assert list(gains.frame.columns) == ["", "a - base", "b - base", "c - base", "a - c"]
    assert gains.frame.loc[0, "a - c"] == "+0.100 [+0.00, +0.20]"
    scores = worked(summary() | {"tested_at": {}}, run)[1]  # of an older run
    assert len(scores.frame) == 1


def test_each_page_says_its_words_and_all_are_short():
    assert set(PROBED) < set(VIEWED) < set(COMPARED) < set(RUN)
    assert all(0 < len(meaning) < 140 for meaning in RUN.values())


def test_the_frames_have_a_word_for_what_they_show():
    from ssd_probe.views.comparison import FRONT

    assert {name.replace("_", " ") for name in FRONT} <= set(COMPARED)
    assert pd.Series(["lock", "fork", "open", "neither"]).isin(VIEWED).all()


def test_a_spoiled_prediction_is_blamed_itself(tmp_path):
    (tmp_path / "prediction.json").write_text("{}")
    run = SimpleNamespace(out=tmp_path, loop=SimpleNamespace(top_k_eval=20, top_p_eval=0.8))
    with pytest.raises(UserError, match=r"prediction.json: damaged, .* \(no 'intervals'\)"):
        predicted_and_came({}, run)

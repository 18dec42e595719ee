"""How large a trial must be: the formulas against simulated trials, the command against people."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.passk import paired_difference
from ssd_probe.analysis.power import Spread, paired_spread, resampled, unpaired_spreads
from ssd_probe.cli.app import main
from ssd_probe.commands.power import SAMPLES, Pilot, power_stage
from ssd_probe.errors import UserError
from ssd_probe.views.power import told


def answers(chances, samples, rng):
    """Verdicts of a model that solves each problem with its own chance."""
    passed = rng.random((len(chances), samples)) < np.asarray(chances)[:, None]
    problem, sample = np.indices(passed.shape)
    verdict = np.where(passed, "pass", "error").ravel()
    ids = [f"p{i}" for i in problem.ravel()]
    return pd.DataFrame({"problem_id": ids, "sample": sample.ravel(), "verdict": verdict})


def chances(problems, rng):
    """Two models: most problems hard, the second model better by 0.07 and not everywhere."""
    p = rng.beta(0.5, 1.5, problems)
    return p, np.clip(p + 0.06 + 0.15 * rng.standard_normal(problems), 0, 1)


def test_spread_by_hand():
    spread = Spread(between=0.02, within=0.3, problems=50)
    assert spread.error(100, 3) == pytest.approx((0.12 / 100) ** 0.5)
    # 1.959964 + 0.841621 standard errors
    assert spread.resolvable(100, 3) == pytest.approx(2.801585 * (0.12 / 100) ** 0.5)
    assert spread.problems_for(0.05, 3) == np.ceil(2.801585**2 * 0.12 / 0.05**2) == 377
    assert spread.power(0.0, 100, 3) == pytest.approx(0.05)  # of nothing: the test's own error
    assert spread.power(0.05, 377, 3) == pytest.approx(0.8, abs=1e-3)
    assert spread.power(-0.05, 377, 3) == spread.power(0.05, 377, 3)


def test_a_pilot_finds_what_varies_between_problems_and_within():
    rng = np.random.default_rng(0)
    p, q = chances(40_000, rng)
    spread = paired_spread(answers(p, 3, rng), answers(q, 5, rng))
    assert spread.between == pytest.approx((q - p).var(), rel=0.15)
    assert spread.within == pytest.approx((p * (1 - p) + q * (1 - q)).mean(), rel=0.05)
    assert spread.problems == 40_000


def test_the_power_is_the_share_of_trials_whose_interval_leaves_none_out():
    """The paired bootstrap that users see, 300 trials of 120 problems; 3.3 standard errors."""
    rng = np.random.default_rng(1)
    p, q = chances(100_000, rng)
    spread = Spread((q - p).var(), (p * (1 - p) + q * (1 - q)).mean(), len(p))
    told = 0
    for _ in range(300):
        p, q = chances(120, rng)
        base, tuned = answers(p, 3, rng), answers(q, 3, rng)
        row = paired_difference(base, tuned, (1,), None, n_resamples=300).iloc[0]
        told += row["low"] > 0 or row["high"] < 0
    assert told / 300 == pytest.approx(spread.power(0.0693, 120, 3), abs=0.09)


def together(p, q, samples, rng):
    """Answers of two models to the same problems, each pair drawn with one random number."""
    noise = rng.random((len(p), samples))
    problem, sample = np.indices(noise.shape)
    return [
        pd.DataFrame({
            "problem_id": [f"p{i}" for i in problem.ravel()], "sample": sample.ravel(),
            "verdict": np.where(noise < chance[:, None], "pass", "error").ravel(),
        })
        for chance in (p, q)
    ]  # fmt: skip


def test_answers_of_the_same_seeds_vary_together_and_the_power_knows():
    """Shared noise: the share of 2,000 trials that are told is what a pilot says, at 2 sizes.

    Independent answers of the same chances would need a half more problems.
    """
    rng = np.random.default_rng(6)
    p, q = chances(20_000, rng)
    pilot = together(p, q, 5, rng)
    spread = paired_spread(*pilot)
    shared = np.minimum(p, q) - p * q  # the covariance of u < p and u < q
    within = (p * (1 - p) + q * (1 - q) - 2 * shared).mean()
    assert spread.within == pytest.approx(within, rel=0.03)
    assert spread.between == pytest.approx((q - p).var(), rel=0.1)
    apart = paired_spread(pilot[0], pilot[1].assign(sample=pilot[1]["sample"] + 5))
    assert apart.within > 1.5 * spread.within  # no index is shared: nothing is known of c
    true = float((q - p).mean())
    for problems, samples in ((60, 4), (40, 8)):
        told = 0
        for _ in range(2000):
            p, q = chances(problems, rng)
            noise = rng.random((problems, samples, 1))
            passes = (noise < np.stack([p, q], -1)[:, None]).mean(1)
            gain = passes[:, 1] - passes[:, 0]
            told += abs(gain.mean()) > 1.96 * gain.std(ddof=1) / problems**0.5
        assert told / 2000 == pytest.approx(spread.power(true, problems, samples), abs=0.04)


def test_some_shared_indices_give_what_all_do():
    rng = np.random.default_rng(7)
    p, q = chances(20_000, rng)
    base, tuned = together(p, q, 6, rng)
    fewer = tuned[tuned["sample"] > 1]
    own, other = paired_spread(base, fewer), paired_spread(base, tuned)
    assert own.within == pytest.approx(other.within, rel=0.05)
    assert own.between == pytest.approx(other.between, rel=0.1)


def test_a_pilot_without_variation_between_problems_says_nothing_of_endless_answers():
    rng = np.random.default_rng(10)
    base, tuned = answers([0.5] * 40, 3, rng), answers([0.6] * 40, 3, rng)
    spread = paired_spread(base, tuned)
    assert spread.between == 0 and np.isnan(spread.problems_for(0.05, np.inf))
    found = power_stage(Pilot(base, tuned, ("base", "student")), 0.05)
    endless = found["problems_for"][-1]
    assert endless["estimate"] is None and endless["low"] is None and endless["high"] > 2
    said = " ".join(str(told(found)).split())
    assert f"however many answers, {endless['high']:,.0f} at most." in said


def test_two_evaluations_that_agree_everywhere_are_refused():
    frame = answers([0.5] * 9, 3, np.random.default_rng(9))
    with pytest.raises(UserError, match="no answer of the two evaluations differs"):
        paired_spread(frame, frame)


def test_resampled_pilots_lie_about_the_pilot():
    rng = np.random.default_rng(2)
    p, q = chances(150, rng)
    base, tuned = answers(p, 4, rng), answers(q, 4, rng)
    own, others = paired_spread(base, tuned), resampled(base, tuned, n_resamples=400)
    low, high = np.quantile([s.within for s in others], (0.025, 0.975))
    assert low < own.within < high and high - low < 0.2
    again = resampled(base, tuned, n_resamples=400)
    assert [s.between for s in others] == [s.between for s in again]


def test_one_model_leaves_a_range_that_holds_what_two_say():
    rng = np.random.default_rng(3)
    p = rng.beta(0.5, 1.5, 3000)
    q = np.where(rng.random(3000) < 0.1, np.minimum(p + 0.5, 1), p)
    base, tuned = answers(p, 4, rng), answers(q, 4, rng)
    least, most = unpaired_spreads(base, float((q - p).mean()))
    assert least.between < paired_spread(base, tuned).between < most.between


@pytest.mark.parametrize(
    ("problems", "samples", "why"),
    [(5, 1, "has 1 sample in the pilot"), (1, 4, "at least 2 are needed")],
)
def test_a_pilot_that_says_nothing_is_refused(problems, samples, why):
    rng = np.random.default_rng(4)
    frame = answers([0.5] * problems, samples, rng)
    for ask in (lambda: paired_spread(frame, frame), lambda: unpaired_spreads(frame, 0.1)):
        with pytest.raises(UserError, match=why):
            ask()


@pytest.fixture
def power(tmp_path, monkeypatch, capfd):
    """Run the command in `tmp_path`: its exit code, what it printed and what it said of errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ssd-probe", "power", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, error = capfd.readouterr()
        return stop.value.code, out, error

    return run


@pytest.fixture
def results(tmp_path):
    rng = np.random.default_rng(5)
    for name, q in zip(("base", "student"), chances(80, rng), strict=True):
        rows = answers(q, 3, rng).rename(columns={"problem_id": "task_id"})
        (tmp_path / f"{name}.json").write_text(json.dumps({"results": rows.to_dict("records")}))


def test_the_command_says_what_its_numbers_say(results, tmp_path, power):
    code, printed, _ = power("base.json", "student.json", "--json")
    found = json.loads(printed)
    assert code == 0
    assert (found["problems"], found["samples"]) == (80, 3)
    assert [row["samples"] for row in found["resolvable"]] == list(SAMPLES)
    pilot = Pilot.load(tmp_path / "base.json", tmp_path / "student.json")
    spread = paired_spread(pilot.base, pilot.tuned)
    three = found["resolvable"][2]
    assert three["estimate"] == pytest.approx(spread.resolvable(80, 3))
    assert three["low"] < three["estimate"] < three["high"]
    assert found["problems_for"][-1]["samples"] is None  # however many answers
    assert found["problems_for"][-1]["estimate"] <= found["problems_for"][-2]["estimate"]
    code, said, _ = power("base.json", "student.json")
    assert code == 0
    assert f"pass@1 of {three['estimate']:.3f} [" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 100


def test_one_model_s_results_give_ranges(results, tmp_path):
    said = str(told(power_stage(Pilot.load(tmp_path / "base.json"), 0.05)))
    assert "from one model only a range" in said and "[" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.json"], "absent.json: no such file; give a run's folder, or what `evaluate"),
        (["odd.json"], "odd.json: damaged, or of another version"),
        (["list.json"], "list.json: damaged (no object)"),
        (["empty"], "empty: not a run (no run.json)"),
        (["base.json", "student.json", "--difference", "0"], "difference = 0: must be between"),
        (["base.json", "--power", "1"], "power = 1: must be above 0.05"),
        (["base.json", "other.json"], "0 problems are in both evaluations"),
    ],
)
def test_bad_input_is_one_line(results, tmp_path, power, arguments, message):
    (tmp_path / "odd.json").write_text('{"results": [{"task": 1}]}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    others = [{"task_id": f"q{i}", "verdict": "pass"} for i in (1, 1, 2, 2)]
    (tmp_path / "other.json").write_text(json.dumps({"results": others}))
    code, _, said = power(*arguments)
    assert code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1


def test_a_run_is_a_pilot_of_its_own_test(demo_run):
    run = demo_run[0]
    pilot = Pilot.load(run)
    assert pilot.names == ("base", "ssd")
    found = power_stage(pilot, 0.1)
    assert found["problems"] == pilot.base["problem_id"].nunique()
    with pytest.raises(UserError, match="a run has its own two models"):
        Pilot.load(run, run / "x.json")

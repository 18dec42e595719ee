"""Prediction from kept ranks against the theory over the whole vocabulary, position by position."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis import explain, theory
from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import FORK, LOCK, NEITHER, SupportRule
from ssd_probe.analysis.prediction.check import (
    curve_errors,
    measured_intervals,
    predicted_and_measured,
)
from ssd_probe.analysis.prediction.feasible import RESOLUTION, Limits, feasible_top_p, interval
from ssd_probe.analysis.prediction.ideal import Ranks, ideal_student
from ssd_probe.analysis.prediction.plot_data import prediction_pictures
from ssd_probe.analysis.prediction.positions import Sample, draw_positions, same_positions
from ssd_probe.analysis.prediction.predict import GAINS, predict, temperature_map
from ssd_probe.analysis.toy.machine import PAPER, policy
from ssd_probe.cli.app import main
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from tests.probes import flat, probe_of, random_logits, two_way

LOGITS = random_logits(n=90)
KINDS = np.array([LOCK, FORK, NEITHER])[np.arange(90) % 3]
TRAINS = [Decoding(1.6, 20, 0.8), Decoding(0.9, 5, 0.95), Decoding(1.3, 1), Decoding(2.0)]
EVALS = [Decoding(t, 20, p) for p in (0.8, 1.0) for t in (0.4, 1.0, 2.2)]
LIMITS = Limits(lock_share=0.3, fork_share=0.3)


def sample_of(logits, kinds, ranks=64) -> Sample:
    kinds = np.asarray(kinds)
    stats = stats_of(probe_of(np.asarray(logits, float), ranks=ranks))
    return Sample(stats, kinds, np.arange(len(kinds)), len(kinds))


def ranks_of(logits) -> Ranks:
    return Ranks(stats_of(probe_of(np.asarray(logits, float))).top_logits)


@pytest.fixture(scope="module")
def found():
    return predict(sample_of(LOGITS, KINDS), TRAINS, EVALS, LIMITS)


def pick(frame, train, label, evaluation=None):
    rows = frame[frame["label"] == label]
    values = {} if train is None else dict(T_train=train.temperature, top_k_train=train.top_k)
    rows = rows[rows["T_train"].isna()] if train is None else rows
    if evaluation is not None:
        values |= dict(T_eval=evaluation.temperature, top_p_eval=evaluation.top_p)
    for name, value in values.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def rows_of(label) -> np.ndarray:
    return LOGITS if label == "all" else LOGITS[label == KINDS]


def top_token(logits) -> np.ndarray:
    return np.arange(logits.shape[1]) == logits.argmax(1)[:, None]


@pytest.mark.parametrize("evaluation", EVALS, ids=str)
@pytest.mark.parametrize("train", [None, *TRAINS], ids=str)
@pytest.mark.parametrize("label", [LOCK, FORK, NEITHER, "all"])
def test_what_is_drawn_is_the_theory_s_student_decoded(found, train, evaluation, label):
    logits = rows_of(label)
    student = logits if train is None else theory.target(logits, train)
    drawn = theory.target(student, evaluation)
    p, entropy = np.exp(drawn), theory.entropy(drawn)
    row = pick(found.cells, train, label, evaluation)
    expected = {
        "positions": len(logits),
        "survivors": (p > 0).sum(1).mean(),
        "entropy": entropy.mean(),
        "branching": np.exp(entropy).mean(),
        "top1": p.max(1).mean(),
        "precise": (p.max(1) >= 0.99).mean(),
        "open": (np.exp(entropy) >= 1.5).mean(),
        "log_top1": drawn.max(1).mean(),
    }
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("train", TRAINS, ids=str)
@pytest.mark.parametrize("label", [LOCK, "all"])
def test_supports_and_prop_b3_at_tau_1_are_those_of_the_vocabulary(found, train, label):
    logits = rows_of(label)
    inside = theory.support(logits, train)
    gain = explain.gain(logits, top_token(logits), train, 1.0)
    row = pick(found.supports, train, label)
    expected = {
        "kept_mass": theory.kept_mass(logits, inside).mean(),
        "lost_mass": theory.kept_mass(logits, ~inside).mean(),
        "gain_support": gain.support.mean(),
        "support_size": inside.sum(1).mean(),
        "target_entropy": theory.entropy(theory.target(logits, train)).mean(),
        "gain_reshaping": gain.reshaping.mean(),
    }
    if not train.truncates:  # S is the vocabulary, of which 64 of 150 ranks are kept
        assert row[list(expected)[3:]].isna().all()
        expected = {name: expected[name] for name in list(expected)[:3]}
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("evaluation", EVALS, ids=str)
@pytest.mark.parametrize("train", TRAINS, ids=str)
def test_gains_are_prop_b3_within_the_evaluation_s_top_k_and_add_up(found, train, evaluation):
    logits = rows_of(LOCK)
    within = np.where(theory.support(logits, Decoding(1.0, 20)), logits, -np.inf)
    gain = explain.gain(within, top_token(logits), train, evaluation.temperature)
    student = theory.target(theory.target(logits, train), evaluation).max(1)
    total = student.mean() - theory.target(logits, evaluation).max(1).mean()
    row = pick(found.cells, train, LOCK, evaluation)
    expected = [gain.support.mean(), gain.reshaping.mean()]
    assert list(row[GAINS[:2]]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert row[GAINS].sum() == pytest.approx(total, abs=1e-6)
    if evaluation.top_p == 1:
        assert row["gain_cut"] == pytest.approx(0, abs=1e-9)
    assert pick(found.cells, None, LOCK, evaluation)[GAINS].isna().all()


def test_the_toy_machine_is_predicted_exactly():
    """All 16 tokens are kept, so top-p alone is known too: the paper's own settings."""
    machine = PAPER
    logits = np.log([s.probabilities for s in machine.positions])
    kinds = [NEITHER, FORK, LOCK]
    at = (0.639, 1.0, 2.09)
    evals = [replace(machine.evaluation, temperature=t) for t in at]
    found = predict(sample_of(logits, kinds, ranks=16), [machine.train], evals)
    for before, after, kind in zip(machine.positions, machine.student(), kinds, strict=True):
        support = pick(found.supports, machine.train, kind)
        assert support["support_size"] == (after.probabilities > 0).sum()
        for step, train in ((before, None), (after, machine.train)):
            for q, evaluation in zip(policy(step, at, machine.evaluation), evals, strict=True):
                row = pick(found.cells, train, kind, evaluation)
                assert row["survivors"] == (q > 0).sum()
                assert row["top1"] == pytest.approx(q.max(), abs=1e-6)
    lock = pick(found.cells, machine.train, LOCK, replace(machine.evaluation, temperature=2.09))
    assert lock["survivors"] == 1  # 94.8 % at T=1; flattened it still reaches top-p 0.8 alone


def test_interval_ends_are_where_the_stated_shares_are_lost():
    logits = {LOCK: np.array([two_way(p) for p in np.linspace(0.9, 0.9999, 20)]),
              FORK: np.array([two_way(p) for p in np.linspace(0.5, 0.999, 20)])}  # fmt: skip
    ranks = {label: ranks_of(rows) for label, rows in logits.items()}
    limits = Limits(lock_mass=0.97, lock_share=0.8, fork_branching=1.5, fork_share=0.6)
    truncation, span = Decoding(1.0, 20, 0.999), (0.1, 3.0)

    def shares(temperature):
        at = replace(truncation, temperature=temperature)
        lock, fork = (theory.target(logits[label], at) for label in (LOCK, FORK))
        precise = np.exp(lock.max(1)) >= limits.lock_mass
        return precise.mean(), (np.exp(theory.entropy(fork)) >= limits.fork_branching).mean()

    found = interval(ranks[LOCK], ranks[FORK], truncation, span, limits)
    step = 2 * RESOLUTION
    assert shares(found.T_high)[0] >= 0.8 > shares(found.T_high + step)[0]
    assert shares(found.T_low)[1] >= 0.6 > shares(found.T_low - step)[1]
    fork = theory.target(logits[FORK], replace(truncation, temperature=found.T_high))
    assert found.reach == pytest.approx(np.exp(theory.entropy(fork)).mean(), rel=1e-5)
    assert found.feasible == (found.T_low <= found.T_high) and not found.feasible
    wide = replace(limits, fork_share=0.2)
    assert interval(ranks[LOCK], ranks[FORK], truncation, span, wide).feasible


def test_an_interval_without_a_temperature_is_nan_and_one_beyond_the_range_ends_with_it():
    never, always = [two_way(0.6)], [two_way(1 - 1e-12)]
    none = interval(ranks_of(never), ranks_of(always), Decoding(1, 20), (0.5, 2), Limits())
    assert np.isnan([none.T_low, none.T_high, none.reach, none.top_p_low]).all()
    assert not none.feasible
    both = interval(ranks_of(always), ranks_of(never), Decoding(1, 20), (0.5, 2), Limits())
    assert both[:3] == (0.5, 2, True)


@pytest.mark.parametrize("train", [None, Decoding(1.6, 20, 0.9)], ids=str)
@pytest.mark.parametrize(("needs", "keeps"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_eq_40_of_one_fork_and_one_lock_is_the_theory_s(train, needs, keeps, temperature):
    limits = Limits(fork_tokens=needs, lock_tokens=keeps)
    for fork, lock in zip(LOGITS[:40:4], LOGITS[45:85:4], strict=True):
        ranks, rows = [ranks_of([lock]), ranks_of([fork])], [lock, fork]
        if train is not None:
            ranks = [ideal_student(r, train) for r in ranks]
            rows = [theory.target(row, train) for row in rows]
        expected = explain.feasible_top_p(rows[1], rows[0], needs, keeps, temperature, 20)
        low, high = feasible_top_p(*ranks, Decoding(temperature, 20), limits)
        assert np.isfinite(low) == expected.possible
        if expected.possible:
            assert (low, high) == pytest.approx(
                (float(expected.low), float(expected.high)), abs=1e-6
            )


def test_eq_40_of_many_serves_the_stated_shares_up_to_its_ends():
    rng = np.random.default_rng(0)
    locks = np.array([two_way(p) for p in rng.uniform(0.85, 0.999, 40)])
    forks = np.array([two_way(p) for p in rng.uniform(0.5, 0.8, 40)])
    limits, at = Limits(lock_share=0.9, fork_share=0.7), Decoding(1.0, 20)
    low, high = feasible_top_p(ranks_of(locks), ranks_of(forks), at, limits)

    def served(top_p):
        sizes = [theory.support(x, Decoding(1.0, 20, top_p)).sum(1) for x in (locks, forks)]
        return (sizes[0] <= 1).mean() >= 0.9, (sizes[1] >= 2).mean() >= 0.7

    assert served(low + 1e-5) == served(high - 1e-5) == (True, True)
    assert served(low - 1e-5) == (True, False) and served(high + 1e-5) == (False, True)


def test_pictures_hold_a_map_a_pair_of_truncations_and_what_it_was_made_with(found):
    rule = SupportRule(Decoding(1.3, 10, 0.9))
    shown = prediction_pictures(found._replace(rule=rule))
    pairs = {((t.top_k, t.top_p), (e.top_k, e.top_p)) for t in TRAINS for e in EVALS}
    assert set(shown.maps) == pairs and shown.checks == {}
    for (_, (k_eval, p_eval)), frame in shown.maps.items():
        assert frame["T_train"].isna().any() and frame["T_train"].notna().any()
        assert set(frame["top_k_eval"]) == {k_eval} and set(frame["top_p_eval"]) == {p_eval}
    assert (shown.limits, shown.rule, shown.locks) == (LIMITS, rule.decoding, found.positions[LOCK])


def test_settings_are_ordered_by_reach_and_the_map_says_what_is_feasible(found):
    reach = found.intervals["reach"]
    assert len(found.intervals) == 2 * (1 + len(TRAINS)) and reach.notna().any()
    assert reach.dropna().is_monotonic_decreasing
    assert reach.isna().is_monotonic_increasing  # those that no T_eval serves come last
    table = temperature_map(found)
    assert len(table) == len(EVALS) * (1 + len(TRAINS)) and table["feasible"].nunique() == 2
    for row in table.to_dict("records"):
        train = None if np.isnan(row["T_train"]) else next(
            t for t in TRAINS if t.temperature == row["T_train"])  # fmt: skip
        at = next(
            e for e in EVALS if (e.temperature, e.top_p) == (row["T_eval"], row["top_p_eval"])
        )
        lock, fork = (pick(found.cells, train, label, at) for label in (LOCK, FORK))
        assert (row["precision"], row["branching"]) == (lock["top1"], fork["branching"])
        assert row["feasible"] == (lock["precise"] >= 0.3 and fork["open"] >= 0.3)


def test_positions_that_the_ranks_cannot_tell_are_left_out_and_counted():
    logits = np.repeat(LOGITS[:60], 5, axis=0)
    logits[0, :] = 0.0  # a tie at every rank goes on beyond the 64th
    logits[1, 0] = np.nan
    kinds = np.array([LOCK, FORK])[np.arange(300) % 2]
    found = predict(sample_of(logits, kinds), TRAINS, EVALS)
    clean = predict(sample_of(logits[2:], kinds[2:]), TRAINS, EVALS)
    assert found.left_out == 2 and sum(found.positions.values()) == 298
    pd.testing.assert_frame_equal(found.cells, clean.cells)


@pytest.mark.parametrize(("trains", "evals", "message"), [
    ([Decoding(0.0, 20)], EVALS, "T = 0: prediction needs temperatures above 0"),
    (TRAINS, [Decoding(1e-6, 20)], "temperatures above 0"),
    ([Decoding(1.6, 0, 0.8)], EVALS, "top-k 0: what it keeps is not within the probe's 64 ranks"),
    (TRAINS, [Decoding(1.0, 0, 0.9)], "top-k 0"),
    (TRAINS, [Decoding(1.0, 65)], "top-k 65"),
    ([], EVALS, "at least one training"),
    (TRAINS, [], "one evaluation setting"),
])  # fmt: skip
def test_settings_that_cannot_be_told_are_refused(trains, evals, message):
    with pytest.raises(UserError, match=message):
        predict(sample_of(LOGITS, KINDS), trains, evals)


@pytest.mark.parametrize("missing", [LOCK, FORK])
def test_without_a_lock_or_a_fork_there_is_nothing_to_predict(missing):
    with pytest.raises(UserError, match=f"no {missing} among 90 positions"):
        predict(sample_of(LOGITS, np.where(missing == KINDS, NEITHER, KINDS)), TRAINS, EVALS)


@pytest.mark.parametrize("wrong", [
    {"lock_mass": 0}, {"lock_share": 1.5}, {"fork_share": -1}, {"fork_branching": 0.5},
    {"fork_tokens": 0}, {"lock_tokens": 0}, {"fork_branching": float("nan")},
])  # fmt: skip
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Limits(**wrong)


class TestCheck:
    train = Decoding(1.6, 20, 0.8)
    evals = [Decoding(t, 20, 0.95) for t in (0.5, 1.0, 1.5)]

    def curves(self, student_logits):
        student = sample_of(student_logits, KINDS)
        base = sample_of(LOGITS, KINDS)
        return predicted_and_measured(base, student, self.train, self.evals, Limits())

    def test_an_ideal_student_is_predicted_without_error(self):
        q = theory.target(LOGITS, self.train)
        errors = curve_errors(self.curves(np.where(q > -np.inf, q, -np.inf)))
        assert len(errors) == 4 * 4 and errors["change"].min() > 0.01
        assert errors["largest_error"].max() < 1e-5 and errors["relative"].max() < 1e-4
        assert (errors["nearer"] == 3).all() and (errors["of"] == 3).all()

    def test_an_ideal_student_has_the_interval_that_was_predicted(self):
        student = sample_of(theory.target(LOGITS, self.train), KINDS)
        measured = measured_intervals(student, self.train, self.evals, LIMITS).iloc[0]
        found = predict(sample_of(LOGITS, KINDS), [self.train], self.evals, LIMITS).intervals
        predicted = found[found["model"] == "ideal fit"].iloc[0]
        for name in ("T_low", "T_high", "reach", "top_p_low", "top_p_high"):
            assert measured[name] == pytest.approx(predicted[name], abs=1e-5, nan_ok=True)
        assert measured["T_low"] > 0 and measured["T_train"] == 1.6

    def test_a_student_that_did_not_move_has_relative_error_beyond_measure(self):
        errors = curve_errors(self.curves(LOGITS))
        assert (errors["change"] == 0).all() and errors["relative"].isna().all()
        assert (errors["mean_error"] > 0).all() and (errors["nearer"] < 3).all()

    def test_errors_are_means_over_t_eval_in_the_curve_s_units(self):
        curves = self.curves(np.where(top_token(LOGITS), LOGITS + 1, LOGITS))
        row = curve_errors(curves).query("label == 'fork' and curve == 'entropy'").iloc[0]
        wide = curves[curves["label"] == FORK].pivot(
            index="T_eval", columns="model", values="entropy"
        )
        error, change = wide["ideal fit"] - wide["ssd"], (wide["ssd"] - wide["base"]).abs()
        assert row["mean_error"] == pytest.approx(error.abs().mean())
        assert row["largest_error"] == pytest.approx(error.abs().max())
        assert row["bias"] == pytest.approx(error.mean())
        assert row["relative"] == pytest.approx(error.abs().mean() / change.mean())


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """The bundled model over programs enough for two parts, and over fewer."""
    from ssd_probe.files.writing import write_jsonl
    from ssd_probe.models.checkpoints import load_tokenizer
    from ssd_probe.probing.probe import probe
    from ssd_probe.problems.texts import read_texts
    from ssd_probe.tiny import domain
    from ssd_probe.tiny.truth import program_rows

    folder = tmp_path_factory.mktemp("probes")
    chosen = domain.problems("test", 70)
    write_jsonl(folder / "programs.jsonl", program_rows(load_tokenizer("tiny"), chosen, 0))
    texts = read_texts([folder / "programs.jsonl"])
    probe("tiny", texts, folder / "base", progress=False)
    probe("tiny", texts[:6], folder / "fewer", progress=False)
    return folder


def load(path):
    from ssd_probe.probing.table import Probe

    return Probe.load(path)


def test_positions_are_drawn_by_seed_without_replacement_and_keep_their_labels(probes):
    base, rule = load(probes / "base"), SupportRule()
    every = draw_positions(base, rule)
    assert base.record["parts"] == 2
    assert every.of == len(every.rows) == len(base) == len(every.labels)
    assert (every.stats.top_logits.numpy() == np.stack(base.frame["top_logits"])).all()
    some, again, other = (draw_positions(base, rule, 400, seed) for seed in (1, 1, 2))
    assert len(set(some.rows)) == 400 and (np.diff(some.rows) > 0).all()
    assert (some.rows == again.rows).all() and (some.rows != other.rows).any()
    assert (some.labels == every.labels[some.rows]).all()
    assert (some.stats.top_logits == every.stats.top_logits[some.rows]).all()
    with pytest.raises(UserError, match="positions = -1"):
        draw_positions(base, rule, -1)


def test_a_student_s_probe_must_hold_the_same_positions(probes):
    base = load(probes / "base")
    sample = draw_positions(base, SupportRule(), 400)
    assert (same_positions(base, base, sample).stats.top_ids == sample.stats.top_ids).all()
    with pytest.raises(UserError, match="probe both alike"):
        same_positions(base, load(probes / "fewer"), sample)
    other = load(probes / "base")
    other.record = other.record | {"tokenizer": "another"}
    with pytest.raises(UserError, match="different tokenizers"):
        same_positions(base, other, sample)
    other = load(probes / "base")
    other.batches = lambda names: (part.assign(token_id=0) for part in base.batches(names))
    with pytest.raises(UserError, match=f"token_id differs .* at row {sample.rows[0]}"):
        same_positions(base, other, sample)


def command(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr()
    return stopped.value.code, said.out, said.err


def test_command_tells_order_intervals_and_error_and_draws(probes, tmp_path, monkeypatch, capfd):
    given = ("--probe", probes / "base", "--t-eval", "0.4,1", "--t-eval", 2, "--t-train", 1.6)
    code, out, err = command(
        monkeypatch, capfd, *given, "--student", probes / "base", "--out", tmp_path
    )
    assert code == 0, err
    words = " ".join(out.split())
    assert "no forecast of pass@k" in words and "The base: T_eval from" in words
    assert "no farther off than the base at" in words and "Training supports" not in words
    code, full, _ = command(monkeypatch, capfd, *given, "--student", probes / "base", "--full")
    assert "\n1. " in full and "\n2. " in full and "nothing changed" in full
    assert "Training supports" in full and " ".join(full.split())[:500] == words[:500]
    names = {path.name for path in tmp_path.iterdir()}
    stems = ("predict_train_k20_p0.8_eval_k20_p0.8", "predict_student_eval_k20_p0.8")
    assert names == {stem + end for stem in stems for end in (".png", ".pdf", ".svg", ".txt")}


def test_command_sets_rivals_beside_the_students(probes, tmp_path, monkeypatch, capfd):
    given = ("--probe", probes / "base", "--t-eval", "0.4,1,2", "--t-train", "1.2,1.6")
    code, out, err = command(
        monkeypatch, capfd, *given, "--rivals", "--policy", "min-p(0.3)", "--out", tmp_path
    )
    assert code == 0, err
    told = [line for line in out.splitlines() if not line.startswith(str(tmp_path))]
    assert max(map(len, told)) <= 100
    assert "min-p(min_p=0.3)" in out and "student of T=1.2, top-k 20, top-p 0.8" in out
    assert "top-n-sigma(n=1) is left out: the standard deviation" in " ".join(out.split())
    assert (tmp_path / "predict_rivals.png").exists()
    code, full, _ = command(monkeypatch, capfd, *given, "--policy", "top-h", "--full")
    assert "Mean head entropy at forks, nats, by T" in full
    assert max(map(len, full.splitlines())) <= 100
    code, out, _ = command(monkeypatch, capfd, *given, "--policy", "top-h", "--json")
    found = json.loads(out)["rivals"]
    assert [row["policy"] for row in found["cells"][::6]] == [
        "base", "student of T=1.2, top-k 20, top-p 0.8", "student of T=1.6, top-k 20, top-p 0.8",
        "top-h(top_h=0.4)",
    ]  # fmt: skip
    assert {row["policy"] for row in found["level"]} == {row["policy"] for row in found["cells"]}
    assert found["slip"] >= 1e-3 and found["ranks"] == 64 and found["untold"] == {}


@pytest.mark.parametrize(("more", "says"), [
    (["--policy", "adapt"], "adapt(T_start=0.8): ranks do not say where a line begins"),
    (["--policy", "top-n-sigma(1)"], "standard deviation of all logits is not known"),
    (["--policy", "min-p"], "policy min-p: min_p is missing"),
    (["--rivals", "--eval-top-p", "0.8,0.9"], "rivals are set beside one truncation"),
])  # fmt: skip
def test_rivals_that_cannot_be_told_are_one_line(probes, monkeypatch, capfd, more, says):
    code, out, err = command(monkeypatch, capfd, "--probe", probes / "base", *more)
    assert code == 2 and out == "" and says in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("more", [[], ["--full"]])
def test_a_terminal_gets_the_sentences_first_in_100_columns(probes, monkeypatch, capfd, more):
    wide = ("--t-eval", ",".join(f"{t / 10:g}" for t in range(4, 31)), "--top-p", "0.8,0.95",
            "--eval-top-p", "0.8,0.95")  # fmt: skip
    code, out, err = command(monkeypatch, capfd, "--probe", probes / "base", *wide, *more)
    assert code == 0, err
    first = [each for each in out.split("\n\n")[0].splitlines() if not each.startswith("  ")]
    assert [each.split()[0] for each in first] == ["Of", "Of", "The"]
    assert 90 < max(map(len, out.splitlines())) <= 100 and "\x1b" not in out


def test_command_prints_json_without_nan(probes, monkeypatch, capfd):
    code, out, err = command(
        monkeypatch, capfd, "--probe", probes / "base", "--positions", 500, "--json"
    )
    assert code == 0, err
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["drawn"] == 500 and told["bound"] == "ideal fit" and sum(told["positions"].values())
    assert len(told["intervals"]) == 7 and len(told["train"]) == 6
    assert {row["T_train"] for row in told["intervals"]} == {None, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0}


@pytest.mark.parametrize(("options", "message"), [
    (["--t-train", "0"], "T = 0: prediction needs temperatures above 0"),
    (["--t-eval", "-1"], "temperature = -1.0"),
    (["--t-train", "warm"], "--t-train warm: must be numbers"),
    (["--top-k", "2.5"], "--top-k: must be whole numbers"),
    (["--eval-top-k", "0"], "top-k 0: what it keeps is not within the probe's 64 ranks"),
    (["--top-k", "65"], "top-k 65"),
    (["--top-p", "1.5"], "top_p = 1.5"),
    (["--lock-mass", "2"], "lock_mass = 2.0"),
    (["--student", "nowhere"], "--student needs the one setting"),
    (["--student", "nowhere", "--t-train", "1.6"], "nowhere: no such probe folder"),
    (["--probe", "nowhere"], "nowhere: no such probe folder"),
    (["--positions", "1"], "no "),
])  # fmt: skip
def test_bad_input_is_one_line(probes, options, message, tmp_path, monkeypatch, capfd):
    out = tmp_path / "figures"
    given = ["--probe", probes / "base", "--out", out, *options]
    code, told, err = command(monkeypatch, capfd, *given)
    assert code == 2 and told == "" and message in err and err.count("\n") == 1
    assert not out.exists()


def test_locks_stay_precise_and_forks_open_at_flat_rows():
    """A lock that only a nucleus keeps single: precise up to the T at which it takes a second."""
    rows = [two_way(0.9), flat(0.0)]
    spans = interval(
        ranks_of(rows[:1]), ranks_of(rows[1:]), Decoding(1, 20, 0.8), (0.1, 5), Limits()
    )
    expected = np.log(0.9 / 0.1) / np.log(0.8 / 0.2)  # where 0.9^(1/T) against 0.1^(1/T) is 4 to 1
    assert spans.T_high == pytest.approx(expected, abs=2 * RESOLUTION)

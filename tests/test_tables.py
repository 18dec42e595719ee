"""Tables as text: what is written, how it is rounded, and what is escaped."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.passk import paired_difference, pass_curves, pass_table
from ssd_probe.analysis.sweeps.printed import (
    comparison_table,
    difference_table,
    pass_at_k_table,
    rounded,
    rules_table,
    sweep_table,
    table_2,
    to_latex,
    to_markdown,
    with_interval,
    write_table,
)
from ssd_probe.analysis.sweeps.published import published
from ssd_probe.errors import UserError

NAN = float("nan")
AWKWARD = pd.DataFrame({"a_b|%": ["x_1 & 50 %", "top-k 5\n$y$"], "change": ["-0.05", "+1.5"]})


@pytest.mark.parametrize("numbers, sign, text", [
    ((0.3921, 0.374, 0.410), False, "0.392 [0.37, 0.41]"),
    ((0.3921, 0.332, 0.452), False, "0.392 [0.33, 0.45]"),
    ((-0.0826, -0.0829, -0.0823), True, "-0.08260 [-0.0829, -0.0823]"),
    ((0.056, 0.055, 0.057), True, "+0.0560 [+0.055, +0.057]"),
    ((0.5, 0.0, 1.0), False, "0.500 [0.00, 1.00]"),
    ((0.25, 0.25, 0.25), False, "0.250 [0.250, 0.250]"),
    ((-0.0001, -0.01, 0.01), True, "+0.000 [-0.01, +0.01]"),
    ((0.1234, NAN, NAN), True, "+0.123"),
    ((NAN, 0.1, 0.2), False, "n/a"),
])  # fmt: skip
def test_an_interval_sets_the_digits(numbers, sign, text):
    assert with_interval(*numbers, sign=sign) == text


def test_markdown_is_a_pipe_table_with_numbers_to_the_right():
    assert to_markdown(AWKWARD).splitlines() == [
        "| a_b\\|% | change |",
        "| --- | ---: |",
        "| x_1 & 50 % | -0.05 |",
        "| top-k 5 $y$ | +1.5 |",
    ]


def test_latex_is_booktabs_and_escaped():
    text = to_latex(AWKWARD)
    assert "\\begin{tabular}{lr}" in text and "\\toprule" in text and "\\bottomrule" in text
    assert "a_b" not in text and "a\\_b|\\%" in text
    assert "x\\_1 \\& 50 \\% & $-$0.05 \\\\" in text
    assert "top-k 5" in text and "\\$y\\$" in text


def test_a_hyphen_before_a_digit_in_a_name_stays_one():
    assert "Qwen3-4B" in to_latex(pd.DataFrame({"model": ["Qwen3-4B"]}))


def test_write_table_writes_both(tmp_path):
    paths = write_table(AWKWARD, tmp_path / "new" / "table_T0.8")
    assert [path.name for path in paths] == ["table_T0.8.md", "table_T0.8.tex"]
    assert [path.read_text() for path in paths] == [to_markdown(AWKWARD), to_latex(AWKWARD)]


def results(passes: list[int], model: str = "base", temperature: float = 1.0) -> pd.DataFrame:
    """10 samples of each problem, the first `passes` of them right."""
    return pd.DataFrame(
        {"model": model, "temperature": temperature, "problem_id": f"p{i}", "sample": sample,
         "verdict": "pass" if sample < right else "wrong",
         "difficulty": "easy" if i % 2 else "hard"}
        for i, right in enumerate(passes) for sample in range(10)
    )  # fmt: skip


BASE, TUNED = results([1, 5, 2, 9, 0, 7]), results([3, 6, 4, 9, 1, 9], "ssd")


def test_pass_at_k_has_a_column_a_k():
    scores = pass_table(BASE)
    table = pass_at_k_table(scores)
    assert list(table) == ["group", "pass@1", "pass@5"]
    assert table["group"].tolist() == ["all", "easy", "hard"]
    first = scores.iloc[0]
    assert table["pass@1"][0] == with_interval(first["estimate"], first["low"], first["high"])
    curves = pass_at_k_table(pass_curves(pd.concat([BASE, TUNED]), by=None))
    assert list(curves) == ["model", "T_eval", "group", "pass@1", "pass@5"]
    assert curves["model"].tolist() == ["base", "ssd"]


def test_differences_are_signed():
    table = difference_table(paired_difference(BASE, TUNED, ks=[1], by=None))
    assert table[["group", "pass@k", "base", "tuned"]].values.tolist() == [
        ["all", "pass@1", "0.400", "0.533"]
    ]
    assert table["difference"][0].startswith("+0.133 [+0.")


def test_a_change_under_the_noise_floor_is_marked():
    row = {
        "label": "lock", "statistic": "tail_mass", "positions": 90, "problems": 9,
        "base": 0.0095, "tuned": 0.0005, "difference": -0.009, "low": -0.0092, "high": -0.0088,
    }  # fmt: skip
    frame = pd.DataFrame([row | {"floor": 0.01}, row | {"floor": 1e-5}, row | {"floor": NAN}])
    table = comparison_table(frame)
    assert table["statistic"].unique().tolist() == ["tail mass"]
    assert table["base"].tolist() == ["0.00950"] * 3  # as many decimals as the difference has
    assert table["difference"].tolist() == [
        "-0.00900 [-0.0092, -0.0088] under noise", *["-0.00900 [-0.0092, -0.0088]"] * 2,
    ]  # fmt: skip
    assert comparison_table(frame.drop(columns="floor"))["difference"].nunique() == 1


def test_rules():
    scores = pd.DataFrame({"label": ["fork", "lock"], "truth": [3, 9], "predicted": [3, 0],
                           "precision": [1.0, NAN], "recall": [0.5, 0.0], "f1": [2 / 3, 0.0],
                           "auc": [0.98765, NAN]})  # fmt: skip
    table = rules_table(scores.assign(rule="SupportRule"))
    assert list(table) == ["rule", "label", "truth", "predicted", "precision", "recall", "F1",
                           "ROC-AUC"]  # fmt: skip
    assert table.iloc[0].tolist() == ["SupportRule", "fork", 3, 3, "1.000", "0.500", "0.667",
                                      "0.988"]  # fmt: skip
    assert table["precision"][1] == "n/a"


def test_rounded_leaves_integers_and_text_and_writes_no_negative_zero():
    frame = pd.DataFrame({"n": [1], "x": [-1e-9], "s": ["y"]})
    assert rounded(frame, 2).values.tolist() == [[1, "0.00", "y"]]


def test_table_2_is_as_the_paper_prints_it():
    table = table_2(published().table_2)
    assert table["model"].tolist()[-2:] == ["Qwen3-30B-Instruct", "+ SSD"]
    assert list(table)[1:5] == ["pass@1 all", "pass@1 easy", "pass@1 medium", "pass@1 hard"]
    assert table.iloc[-1].tolist()[1:] == [
        "55.3", "91.0", "61.0", "33.6", "71.6", "99.9", "76.4", "54.1",
    ]  # fmt: skip


def test_a_sweep_has_a_row_a_setting_and_group():
    shared = {"top_k_eval": 20, "top_p_eval": 0.8, "group": "all", "low": NAN, "high": NAN}
    trained = {"T_train": 1.6, "top_k_train": 0, "top_p_train": 1.0}
    table = sweep_table(pd.DataFrame([
        {"model": "base", "T_train": NAN, "top_k_train": NAN, "top_p_train": NAN, "T_eval": 0.7,
         "k": 1, "estimate": 0.3, **shared},
        {"model": "ssd", **trained, "T_eval": 0.9, "k": 1, "estimate": 0.4, **shared},
        {"model": "ssd", **trained, "T_eval": 0.9, "k": 5, "estimate": 0.6, **shared},
    ]))  # fmt: skip
    assert table.values.tolist() == [
        ["base", "", "T=0.7, top-k 20, top-p 0.8", "all", "0.300", "n/a"],
        ["ssd", "T=1.6", "T=0.9, top-k 20, top-p 0.8", "all", "0.400", "0.600"],
    ]


@pytest.mark.parametrize("table, what", [
    (comparison_table, "comparison"), (pass_at_k_table, "pass@k table"),
    (difference_table, "differences"), (rules_table, "rules' scores"), (table_2, "Table 2"),
    (sweep_table, "sweep table"),
])  # fmt: skip
def test_the_wrong_frame_is_one_line(table, what):
    with pytest.raises(UserError, match=f"{what} lacks the columns: ") as caught:
        table(pd.DataFrame({"x": np.zeros(2)}))
    assert "\n" not in str(caught.value)

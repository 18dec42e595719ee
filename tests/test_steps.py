"""Figure 8's steps end where `Decoding.warp` ends."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from ssd_probe.analysis.examples.steps import decoding_steps, steps_of_row
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats

LOGITS = np.random.default_rng(0).normal(0, 2, 200)


def of(frame: pd.DataFrame, step: str) -> pd.DataFrame:
    return frame[frame["step"] == step]


@pytest.mark.parametrize("decoding", [
    Decoding(1.6, 20, 0.8), Decoding(0.7, 0, 0.9), Decoding(1.0, 5, 1.0), Decoding(2.0), Decoding(),
])  # fmt: skip
def test_the_last_step_is_what_warp_draws_from(decoding):
    final = of(decoding_steps(LOGITS, decoding, ranks=200), "final")
    warped = decoding.warp(torch.from_numpy(LOGITS)).softmax(-1).numpy()
    np.testing.assert_allclose(final["probability"], warped[final["index"]], atol=1e-12)
    assert final["kept"].tolist() == (warped[final["index"]] > 0).tolist()


def test_each_step_is_its_formula():
    frame = decoding_steps(LOGITS, Decoding(1.6, 20, 0.8), ranks=200)
    assert list(dict.fromkeys(frame["step"])) == ["raw", "temperature", "top-k", "top-p", "final"]
    ranked = np.sort(LOGITS)[::-1]
    np.testing.assert_allclose(of(frame, "raw")["probability"], softmax(ranked))
    tempered = softmax(ranked / 1.6)
    np.testing.assert_allclose(of(frame, "temperature")["probability"], tempered)
    np.testing.assert_allclose(of(frame, "top-k")["probability"], tempered)
    assert of(frame, "top-k")["kept"].sum() == 20
    nucleus = of(frame, "top-p")
    np.testing.assert_allclose(nucleus["probability"][:20], softmax(ranked[:20] / 1.6))
    size = nucleus["kept"].sum()
    assert nucleus["cumulative"].iloc[size - 1] >= 0.8 > nucleus["cumulative"].iloc[size - 2]
    assert frame["whole"].all()


def test_steps_that_are_off_are_left_out():
    assert set(decoding_steps(LOGITS, Decoding())["step"]) == {"raw", "final"}


def test_a_probe_row_gives_the_vocabularys_truth_but_for_what_it_cannot_know():
    logits = torch.from_numpy(LOGITS[None]).float()
    columns = position_stats(logits, top_k=64).to_columns()
    row = pd.Series({name: values[0] for name, values in columns.items()})
    decoding = Decoding(1.6, 20, 0.8)
    known, whole = steps_of_row(row, decoding), decoding_steps(LOGITS, decoding)
    for step in ("raw", "top-p", "final"):
        np.testing.assert_allclose(
            of(known, step)["probability"], of(whole, step)["probability"], atol=1e-6
        )
        assert of(known, step)["whole"].all()
    assert not of(known, "temperature")["whole"].any()
    assert known["token_id"].tolist() == whole["index"].tolist()
    with pytest.raises(UserError, match="64 logits of a larger vocabulary need a top-k of 1..64"):
        steps_of_row(row, Decoding(1.6, 0, 0.8))
    with pytest.raises(UserError, match="not finite"):
        steps_of_row(row.where(row.index != "valid", False), decoding)
    with pytest.raises(UserError, match="lacks the columns: top_ids"):
        steps_of_row(row.drop("top_ids"), decoding)


@pytest.mark.parametrize("logits, decoding", [
    (LOGITS, Decoding(0.0)), (LOGITS[None], Decoding()), ([np.nan, 1], Decoding()),
    ([-np.inf, -np.inf], Decoding()), ([], Decoding()),
])  # fmt: skip
def test_bad_input(logits, decoding):
    with pytest.raises(UserError, match="^Figure 8"):
        decoding_steps(logits, decoding)

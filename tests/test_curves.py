"""The data of Figures 5 and 6 against brute force."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.curves import (
    cumulative_mass,
    entropy_by_mass_bin,
    ranked_probabilities,
    stack_models,
    truncation_curves,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from tests.probes import TRAIN, branching_of, flat, probe_of, random_logits, softmax, support_of


class TestCurves:
    def test_cumulative_mass_matches_sorted_probabilities(self):
        logits = random_logits()
        curve = cumulative_mass(probe_of(logits), ranks=60)
        ranked = -np.sort(-np.array([softmax(row) for row in logits]), axis=1)
        assert list(curve["rank"]) == list(range(1, 61))
        np.testing.assert_allclose(curve["mass"], ranked.cumsum(1).mean(0)[:60], rtol=1e-6)
        misses = ranked[:, ::-1].cumsum(1)[:, ::-1].mean(0)[1:61]
        np.testing.assert_allclose(curve["miss"], misses, rtol=1e-5)

    def test_the_miss_keeps_its_digits_far_below_float_epsilon(self):
        logits = np.zeros((1, 150))
        logits[0, :3] = np.log(147 / 1e-12)
        curve = cumulative_mass(probe_of(logits), ranks=4)
        assert curve["miss"][2] == pytest.approx(1e-12 / 3, rel=1e-5)
        assert curve["miss"][3] == pytest.approx(1e-12 / 3 * 146 / 147, rel=1e-5)

    def test_truncation_curves_match_brute_force(self):
        logits = random_logits()
        temperatures = [0.4, 1.0, 1.9]
        curve = truncation_curves(probe_of(logits), temperatures)
        for row, temperature in zip(curve.itertuples(), temperatures, strict=True):
            decoding = Decoding(temperature, 20, 0.8)
            assert row.temperature == temperature
            sizes = [len(support_of(one, decoding)) for one in logits]
            assert row.survivors == pytest.approx(np.mean(sizes))
            entropies = [np.log(branching_of(one, decoding)) for one in logits]
            assert row.entropy == pytest.approx(np.mean(entropies), rel=1e-5)

    def test_entropy_by_mass_bin(self):
        def with_tail(mass: float, head: int) -> np.ndarray:
            """`head` tokens share 1 - mass evenly; half of the rest is the next token's."""
            p = np.exp(flat(0.0))
            p[head] = 100
            p[head:] *= mass / p[head:].sum()
            p[:head] = (1 - mass) / head
            return np.log(p)

        tails = [1e-4, 3e-3, 7e-3, 0.015, 0.03, 0.06, 0.06]
        frame = probe_of(np.stack([with_tail(m, 20) for m in tails]))
        table = entropy_by_mass_bin(frame, Decoding(1.0, 20, 1.0))
        assert list(table["bin"]) == [
            "99.9 to 100",
            "99.5 to 99.9",
            "99 to 99.5",
            "98 to 99",
            "95 to 98",
            "below 95",
        ]
        assert list(table["positions"]) == [1, 1, 1, 1, 1, 2]
        np.testing.assert_allclose(table["entropy"], np.log(20), rtol=1e-5)

        other = probe_of(np.stack([with_tail(1e-4, 2)] * 7))
        own = entropy_by_mass_bin(other, Decoding(1.0, 20, 0.8))
        assert list(own["positions"]) == [7, 0, 0, 0, 0, 0]
        assert own["entropy"][0] == pytest.approx(np.log(2), rel=1e-4)
        assert own["entropy"].isna().tolist() == [False] + [True] * 5
        same = entropy_by_mass_bin(other, Decoding(1.0, 20, 1.0), binned_by=frame)
        assert list(same["positions"]) == [1, 1, 1, 1, 1, 2]
        with pytest.raises(UserError, match="same rows"):
            entropy_by_mass_bin(other, TRAIN, binned_by=frame.iloc[1:])

    def test_ranked_probabilities_of_one_row(self):
        class Letters:
            is_fast = True

            def decode(self, ids, **options):
                return "".join(f"<{i}>" for i in ids)

        logits = random_logits()
        frame = probe_of(logits)
        table = ranked_probabilities(frame.iloc[20], TRAIN, ranks=30, tokenizer=Letters())
        order = np.argsort(-logits[20])[:30]
        assert list(table["token_id"]) == list(order)
        assert table["token"][0] == f"<{order[0]}>"
        np.testing.assert_allclose(table["probability"], softmax(logits[20])[order], rtol=1e-5)
        kept = support_of(logits[20], TRAIN)
        assert 1 < len(kept) < 20
        assert list(table["token_id"][table["kept"]]) == list(kept)
        assert ranked_probabilities(frame.iloc[20], TRAIN)["token"][0] == str(order[0])

    def test_rows_that_are_not_valid_are_left_out(self):
        logits = random_logits()
        logits[0, 0] = np.nan
        whole, rest = probe_of(logits), probe_of(logits[1:])
        pd.testing.assert_frame_equal(cumulative_mass(whole), cumulative_mass(rest))
        pd.testing.assert_frame_equal(truncation_curves(whole), truncation_curves(rest))
        assert entropy_by_mass_bin(whole, TRAIN)["positions"].sum() == 59
        with pytest.raises(UserError, match="no position"):
            ranked_probabilities(whole.iloc[0], TRAIN)

    def test_more_ranks_than_the_probe_keeps(self):
        frame = probe_of(random_logits(), ranks=16)
        with pytest.raises(UserError, match="keeps 16 ranks, 60 were asked for"):
            cumulative_mass(frame)
        with pytest.raises(UserError, match="not within the probe's 16 ranks"):
            truncation_curves(frame)
        with pytest.raises(UserError, match="need 20 ranks"):
            entropy_by_mass_bin(frame, Decoding(1.0, 10, 0.8))

    def test_stack_models(self):
        curve = cumulative_mass(probe_of(random_logits()), ranks=2)
        both = stack_models({"base": curve, "ssd": curve})
        assert list(both["model"]) == ["base", "base", "ssd", "ssd"]
        assert list(both.index) == [0, 1, 2, 3]

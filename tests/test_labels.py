"""Rules for forks and locks, and how good they are, against brute force."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import FORK, LOCK, NEITHER, EntropyRule, QuantileRule, SupportRule
from ssd_probe.analysis.rates import fork_rates, label_counts
from ssd_probe.analysis.scoring import agreement, score_against_truth, sensitivity
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from tests.probes import TRAIN, branching_of, flat, probe_of, random_logits, two_way


class TestLabels:
    def test_score_and_labels_are_brute_force_branching_against_the_thresholds(self):
        logits = random_logits()
        rule = SupportRule()
        expected = np.array([branching_of(row, TRAIN) for row in logits])
        frame = probe_of(logits).set_index(pd.Index(range(100, 160)))
        np.testing.assert_allclose(rule.score(frame), expected, rtol=1e-5)
        labels = rule.label(frame)
        assert list(labels.index) == list(frame.index)
        assert set(labels) == {LOCK, FORK, NEITHER}
        for kind, b in zip(labels, expected, strict=True):
            assert kind == (LOCK if b <= 1.25 else FORK if b >= 1.5 else NEITHER)

    def test_the_cases_the_thresholds_are_justified_by(self):
        toy_lock = flat(-40.0)  # appendix C.4: two tokens of 94.8 / 5.2 % in the support
        toy_lock[:2] = 1.6 * np.log([0.948, 0.052])  # ... after the decoding's temperature
        frame = probe_of(np.stack([two_way(0.85), two_way(0.999), toy_lock, two_way(0.5)]))
        assert list(SupportRule(Decoding(1.6, 20, 1.0)).label(frame)[2:]) == [LOCK, FORK]
        assert list(SupportRule().label(frame)[:2]) == [FORK, LOCK]
        barely_both = probe_of(two_way(1 / (1 + 0.25**1.6 * 1.001))[None])  # tempered 80 / 20
        assert SupportRule().score(barely_both).item() == pytest.approx(1.65, abs=0.01)

    def test_a_row_that_is_not_valid_is_neither(self):
        logits = random_logits(4)
        logits[1, 3] = np.nan
        labels = SupportRule().label(probe_of(logits))
        assert labels[1] == NEITHER
        assert np.isnan(SupportRule().score(probe_of(logits))[1])

    @pytest.mark.parametrize("settings", [
        {"lock_at_most": 2.0}, {"lock_at_most": 0.9}, {"decoding": Decoding(0.0)},
    ])  # fmt: skip
    def test_impossible_rules_are_refused(self, settings):
        with pytest.raises(UserError):
            SupportRule(**settings)

    def test_a_decoding_the_ranks_cannot_hold_is_refused(self):
        frame = probe_of(random_logits(), ranks=16)
        with pytest.raises(UserError, match="not within the probe's 16 ranks"):
            SupportRule().label(frame)

    def test_a_frame_that_is_no_probe_is_refused(self):
        frame = probe_of(random_logits(4))
        with pytest.raises(UserError, match="lacks the columns: top_ids"):
            stats_of(frame.drop(columns="top_ids"))
        frame["top_ids"] = [row[: 5 + i] for i, row in enumerate(frame["top_ids"])]
        with pytest.raises(UserError, match="different length"):
            stats_of(frame)


class TestScoreAgainstTruth:
    def test_by_hand(self):
        truth = [FORK, FORK, FORK, LOCK, LOCK, NEITHER]
        said = [FORK, FORK, LOCK, LOCK, FORK, NEITHER]
        found = score_against_truth(said, truth).set_index("label")
        assert found.loc[FORK, ["truth", "predicted"]].tolist() == [3, 3]
        assert found.loc[FORK, ["precision", "recall", "f1"]].tolist() == pytest.approx([2 / 3] * 3)
        assert found.loc[LOCK, "precision"] == found.loc[LOCK, "recall"] == 0.5
        assert np.isnan(found["auc"]).all()

    def test_auc_counts_pairs_with_ties_a_half(self):
        rng = np.random.default_rng(0)
        truth = rng.choice([FORK, LOCK, NEITHER], 80)
        score = np.round(rng.normal(size=80) + (truth == FORK), 1)
        pairs = [
            (a > b) + 0.5 * (a == b) for a in score[truth == FORK] for b in score[truth != FORK]
        ]
        found = score_against_truth(truth, truth, score).set_index("label")
        assert found.loc[FORK, "auc"] == pytest.approx(np.mean(pairs))
        with_hole = np.append(score, np.nan)
        again = score_against_truth(np.append(truth, LOCK), np.append(truth, LOCK), with_hole)
        pd.testing.assert_series_equal(again["auc"], found["auc"].reset_index(drop=True))

    def test_nothing_to_divide_by_is_nan_and_lengths_must_agree(self):
        found = score_against_truth([LOCK, LOCK], [LOCK, LOCK], [1.0, 1.1]).iloc[0]
        assert np.isnan(found[["precision", "recall", "f1", "auc"]].astype(float)).all()
        with pytest.raises(UserError, match="one entry for each"):
            score_against_truth([LOCK], [LOCK, FORK])

"""Rules for forks and locks, and how good they are, against brute force."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import (
    FORK,
    LOCK,
    NEITHER,
    OPEN,
    EntropyRule,
    QuantileRule,
    SupportRule,
)
from ssd_probe.analysis.rates import fork_rates, label_counts
from ssd_probe.analysis.scoring import (
    MEASURES,
    Rated,
    agreement,
    score_against_outcomes,
    score_against_truth,
    sensitivity,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from tests.probes import (
    TRAIN,
    branching_of,
    entropy_of,
    flat,
    probe_of,
    random_logits,
    softmax,
    two_way,
)


class TestLabels:
    def test_score_and_labels_are_brute_force_branching_against_the_thresholds(self):
        logits = random_logits()
        rule = SupportRule(TRAIN, 1.25, 1.5)
        expected = np.array([branching_of(row, TRAIN) for row in logits])
        heads = [np.sort(softmax(row))[-6:].sum() for row in logits]
        frame = probe_of(logits).set_index(pd.Index(range(100, 160)))
        np.testing.assert_allclose(rule.score(frame), expected, rtol=1e-5)
        labels = rule.label(frame)
        assert list(labels.index) == list(frame.index)
        assert set(labels) == {LOCK, FORK, OPEN, NEITHER}
        for kind, b, head in zip(labels, expected, heads, strict=True):
            settled = LOCK if b <= 1.25 else FORK if b >= 1.5 else NEITHER
            assert kind == (OPEN if head < 0.5 else settled)

    @pytest.mark.parametrize("tokens, kind", [(2, FORK), (6, FORK), (12, FORK), (13, OPEN)])
    def test_even_distributions_are_open_from_where_six_tokens_hold_less_than_half(
        self, tokens, kind
    ):
        logits = flat(-60.0)
        logits[:tokens] = -1e-6 * np.arange(tokens)  # 12: half to the last digit, and a hair more
        frame = probe_of(logits[None])
        assert SupportRule().label(frame).item() == kind
        assert EntropyRule(open_above=np.log(12.5)).label(frame).item() == kind

    def test_a_plateau_over_a_long_tail_is_a_fork_and_the_same_without_it_is_open(self):
        """Three tokens of 0.2 over 0.4 spread thin; and all of it spread thin."""
        plateau = np.log(np.full(4000, 0.4 / 3997)) - 1e-6 * np.arange(4000)
        plateau[:3] = np.log(0.2)
        thin = -1e-6 * np.arange(4000)
        assert list(SupportRule().label(probe_of(np.stack([plateau, thin])))) == [FORK, OPEN]

    def test_a_flat_position_is_open_even_where_truncation_leaves_one_token(self):
        """0.3 on one token and crumbs: top-p 0.2 keeps that one alone."""
        logits = np.log(np.full(4000, 0.7 / 3999)) - 1e-6 * np.arange(4000)
        logits[0] = np.log(0.3)
        frame = probe_of(logits[None])
        rule = SupportRule(Decoding(1.0, 20, 0.2))
        assert rule.score(frame).item() == 1 and rule.label(frame).item() == OPEN

    def test_a_head_beyond_the_ranks_is_refused_only_where_it_matters(self):
        rule = SupportRule(Decoding(1.0, 4, 0.9))
        assert rule.label(probe_of(two_way(0.5)[None], ranks=5)).item() == FORK
        with pytest.raises(UserError, match="needs the 6 likeliest tokens, and the probe keeps 5"):
            rule.label(probe_of(flat(0.0)[None], ranks=5))

    def test_the_cases_the_thresholds_are_justified_by(self):
        toy_lock = flat(-40.0)  # appendix C.4: two tokens of 94.8 / 5.2 % in the support
        toy_lock[:2] = 1.6 * np.log([0.948, 0.052])  # ... after the decoding's temperature
        frame = probe_of(np.stack([two_way(0.85), two_way(0.999), toy_lock, two_way(0.5)]))
        assert list(SupportRule(Decoding(1.6, 20, 1.0)).label(frame)[2:]) == [LOCK, FORK]
        assert list(SupportRule(TRAIN).label(frame)[:2]) == [FORK, LOCK]
        barely_both = probe_of(two_way(1 / (1 + 0.25**1.6 * 1.001))[None])  # tempered 80 / 20
        assert SupportRule(TRAIN).score(barely_both).item() == pytest.approx(1.65, abs=0.01)

    def test_a_row_that_is_not_valid_is_neither(self):
        logits = random_logits(4)
        logits[1, 3] = np.nan
        labels = SupportRule().label(probe_of(logits))
        assert labels[1] == NEITHER
        assert np.isnan(SupportRule().score(probe_of(logits))[1])

    @pytest.mark.parametrize("settings", [
        {"lock_at_most": 2.0}, {"lock_at_most": 0.9}, {"decoding": Decoding(0.0)},
        {"head_tokens": 0}, {"head_mass": 1.1}, {"head_mass": -0.1},
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


class TestScoreAgainstOutcomes:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    score = np.round(rng.normal(size=200) + 2 * truth, 1)
    label = np.where(
        score > 1.5, OPEN, np.where(score > 1, FORK, np.where(score > 0.5, NEITHER, LOCK))
    )
    outcomes = pd.DataFrame({"problem_id": rng.integers(0, 30, 200), "p_fork": truth * 1.0})

    def measured(self, score, label, outcomes, **options):
        rated = {"a": Rated(score, label)}
        found = score_against_outcomes(rated, outcomes, n_resamples=200, **options)
        return found.set_index("measure")

    def test_sure_outcomes_are_the_truth_of_score_against_truth(self):
        found = self.measured(self.score, self.label, self.outcomes)
        merged = np.where(self.label == OPEN, FORK, self.label)
        known = score_against_truth(merged, np.where(self.truth, FORK, LOCK), self.score)
        known = known.set_index("label")
        expected = [known.loc[FORK, "auc"], known.loc[FORK, "f1"], known.loc[LOCK, "f1"]]
        assert found["estimate"].iloc[:3].tolist() == pytest.approx(expected)
        assert list(found.index) == list(MEASURES)
        assert ((found["low"] <= found["estimate"]) & (found["estimate"] <= found["high"])).all()
        assert (found["positions"] == 200).all() and (found["problems"] == 30).all()

    def test_best_thresholds_are_those_of_a_search(self):
        found = self.measured(self.score, self.label, self.outcomes)["estimate"]

        def f1(said, true):
            return 2 * (said & true).sum() / (said.sum() + true.sum())

        forks = {t: f1(self.score >= t, self.truth) for t in np.unique(self.score)}
        locks = {t: f1(self.score <= t, ~self.truth) for t in np.unique(self.score)}
        for best, at, tried in (("best_fork_f1", "best_fork_from", forks),
                                ("best_lock_f1", "best_lock_to", locks)):  # fmt: skip
            assert found[best] == pytest.approx(max(tried.values()))
            assert tried[found[at]] == pytest.approx(found[best])

    def test_an_uncertain_outcome_is_both_in_parts_and_a_weight_is_a_repetition(self):
        parts = pd.concat([self.outcomes.assign(p_fork=p) for p in (1.0, 0.0)], ignore_index=True)
        soft = self.outcomes.assign(p_fork=np.linspace(0, 1, 200))
        f = soft["p_fork"].to_numpy()
        parts["weight"] = np.concatenate([f, 1 - f])
        both = np.tile(self.score, 2), np.tile(self.label, 2)
        one, two = self.measured(self.score, self.label, soft), self.measured(*both, parts)
        np.testing.assert_allclose(one["estimate"], two["estimate"])
        np.testing.assert_allclose(one[["low", "high"]], two[["low", "high"]])
        twice = self.outcomes.assign(weight=np.where(np.arange(200) < 50, 2.0, 1.0))
        at = np.r_[np.arange(200), np.arange(50)]
        again = self.measured(self.score[at], self.label[at], self.outcomes.iloc[at])
        weighted = self.measured(self.score, self.label, twice)
        np.testing.assert_allclose(weighted["estimate"], again["estimate"])

    def test_a_gain_is_paired_and_nothing_over_itself(self):
        noisy = self.score + 3 * np.random.default_rng(1).normal(size=200)
        scores = {"a": self.score, "b": noisy, "c": self.score}
        rules = {name: Rated(score, self.label) for name, score in scores.items()}
        alone = score_against_outcomes(rules, self.outcomes, n_resamples=99)
        auc = alone[alone["measure"] == "auc"].set_index("rule")["estimate"]
        gain = score_against_outcomes(rules, self.outcomes, over="b", n_resamples=99)
        assert set(gain["rule"]) == {"a", "c"}
        row = gain[(gain["rule"] == "a") & (gain["measure"] == "auc")].iloc[0]
        assert row["estimate"] == pytest.approx(auc["a"] - auc["b"]) and row["low"] > 0
        same = score_against_outcomes(rules, self.outcomes, over="c", n_resamples=99)
        same = same[same["rule"] == "a"]
        assert (same[["estimate", "low", "high"]] == 0).all(axis=None)

    def test_refused_and_left_out(self):
        with_hole = np.where(np.arange(200) < 5, np.nan, self.score)
        assert self.measured(with_hole, self.label, self.outcomes)["positions"].iloc[0] == 195
        one = self.measured(self.score, self.label, self.outcomes.assign(problem_id=0))
        assert one["low"].isna().all() and one["estimate"].notna().all()
        changes = {"must lie in": {"p_fork": 1.5}, "be below 0": {"weight": -1.0},
                   "no position has both": {"p_fork": np.nan}}  # fmt: skip
        for message, change in changes.items():
            with pytest.raises(UserError, match=message):
                self.measured(self.score, self.label, self.outcomes.assign(**change))
        with pytest.raises(UserError, match="one entry for each"):
            self.measured(self.score[1:], self.label, self.outcomes)
        with pytest.raises(UserError, match="the rules are a"):
            self.measured(self.score, self.label, self.outcomes, over="b")


class TestOtherRules:
    def test_entropy_against_the_thresholds(self):
        logits = random_logits()
        logits[2, 0] = np.nan
        frame = probe_of(logits).set_index(pd.Index(range(7, 67)))
        labels = EntropyRule(0.3, 1.5).label(frame)
        assert list(labels.index) == list(frame.index) and set(labels) == {
            LOCK,
            FORK,
            OPEN,
            NEITHER,
        }
        assert labels.iloc[2] == NEITHER
        for kind, row in zip(np.delete(labels, 2), np.delete(logits, 2, 0), strict=True):
            h = entropy_of(softmax(row))
            settled = LOCK if h <= 0.3 else FORK if h >= 1.5 else NEITHER
            assert kind == (OPEN if h > np.log(12) else settled)

    def test_quantiles_give_their_shares_and_fit_part_by_part(self):
        frame = probe_of(random_logits())
        rule = QuantileRule(0.2, 0.4)
        labels = rule.label(frame)
        assert (labels == FORK).sum() == 12 and (labels == LOCK).sum() == 24
        assert frame["entropy"][labels == LOCK].max() < frame["entropy"][labels == FORK].min()
        halves = [frame["entropy"].to_numpy()[:30], frame["entropy"].to_numpy()[30:]]
        assert (rule.fitted(halves).label(frame) == labels).all()

    @pytest.mark.parametrize("make, message", [
        (lambda: EntropyRule(1.0, 0.5), "lock_at_most < fork_at_least"),
        (lambda: EntropyRule(open_above=0.3), "fork_at_least <= open_above"),
        (lambda: QuantileRule(0.6, 0.5), "at most 1 in all"),
        (lambda: QuantileRule(0.0), "shares in 0..1"),
        (lambda: QuantileRule().fitted([np.array([np.nan])]), "no position has an entropy"),
        (lambda: QuantileRule().fitted([np.ones(9)]), "are both 1"),
        (lambda: QuantileRule().fitted([]), "no position has an entropy"),
    ])  # fmt: skip
    def test_refused(self, make, message):
        with pytest.raises(UserError, match=message):
            make()


class TestAgreementAndSensitivity:
    def test_by_hand(self):
        first = [FORK, FORK, LOCK, LOCK, NEITHER, LOCK]
        second = [FORK, LOCK, LOCK, LOCK, NEITHER, FORK]
        row = agreement({"a": first, "b": second}).iloc[0]
        assert row["agree"] == pytest.approx(4 / 6)
        chance = (2 * 2 + 3 * 3 + 1 * 1) / 36
        assert row["kappa"] == pytest.approx((4 / 6 - chance) / (1 - chance))
        assert row["fork_overlap"] == pytest.approx(1 / 3)
        same = agreement({"a": [LOCK] * 3, "b": [LOCK] * 3, "c": [LOCK] * 3})
        assert len(same) == 3 and same["kappa"].isna().all() and (same["agree"] == 1).all()
        with pytest.raises(UserError, match="at least two rules"):
            agreement({"a": first})
        with pytest.raises(UserError, match="different numbers"):
            agreement({"a": first, "b": first[1:]})

    def test_sensitivity_is_the_rule_with_one_parameter_changed(self):
        frame = probe_of(random_logits())
        rule = SupportRule(TRAIN, 1.25, 1.5)
        truth = rule.label(frame)
        tried = {"lock_at_most": [1.25, 1.4], "decoding": [Decoding(1.0, 20, 0.8)]}
        table = sensitivity(frame, rule, tried, truth)
        assert list(table["parameter"]) == ["lock_at_most", "lock_at_most", "decoding"]
        assert table.loc[0, ["agree", "fork_f1", "lock_f1"]].tolist() == [1, 1, 1]
        other = SupportRule(Decoding(1.0, 20, 0.8), 1.25, 1.5).label(frame)
        assert table.loc[2, "fork_rate"] == (other == FORK).mean()
        assert table.loc[2, "agree"] == (other == truth).mean() < 1
        with pytest.raises(UserError, match="SupportRule has no 'threshold'; it has decoding"):
            sensitivity(frame, rule, {"threshold": [1]})


class TestRates:
    def frame(self):
        frame = probe_of(random_logits(40))
        frame["segment"] = ["text"] * 20 + ["code"] * 20
        frame["syntax"] = [None] * 20 + ["Name", "Call"] * 10
        frame["sample_id"] = "s"
        frame["position"] = np.arange(5, 45)
        return frame

    def test_counts_rates_and_parts(self):
        frame = self.frame()
        labels = np.where(np.arange(40) % 4 == 0, FORK, LOCK)
        labels[1], labels[[5, 21, 23]] = NEITHER, OPEN
        frame.loc[3, "valid"] = False
        rates = fork_rates(label_counts(frame, labels), n_resamples=99).set_index(["by", "group"])
        assert rates.loc[("segment", "text"), "positions"] == 19
        assert rates.loc[("segment", "text"), "fork_rate"] == pytest.approx(5 / 19)
        assert rates.loc[("segment", "text"), "lock_rate"] == pytest.approx(12 / 19)
        assert rates.loc[("segment", "text"), "open_rate"] == pytest.approx(1 / 19)
        assert rates.loc[("syntax", "Call"), "open_rate"] == pytest.approx(0.2)
        assert (rates["open_low"] <= rates["open_rate"]).all()
        assert rates.loc[("syntax", "Name"), "fork_rate"] == pytest.approx(0.5)
        assert rates.loc[("syntax", "Call"), "fork_rate"] == 0
        assert list(rates.loc["depth"].index) == ["0-15", "16-31", "32-63"]
        assert list(rates.loc["depth"]["positions"]) == [15, 16, 8]
        assert ((rates["low"] <= rates["fork_rate"]) & (rates["fork_rate"] <= rates["high"])).all()
        parts = [label_counts(frame[frame["segment"] == kind].assign(sample_id=kind),
                              labels[(frame["segment"] == kind).to_numpy()])
                 for kind in ("text", "code")]  # fmt: skip
        joined = fork_rates(parts, n_resamples=99).set_index(["by", "group"])
        pd.testing.assert_frame_equal(joined.loc[["segment"]], rates.loc[["segment"]])

    def test_where_all_problems_have_one_share_the_interval_is_exact(self):
        frame = self.frame()
        frame["problem_id"] = np.arange(40) // 2  # 20 problems, each of a fork and a lock
        rates = fork_rates(label_counts(frame, [FORK, LOCK] * 20), n_resamples=99)
        row = rates.set_index(["by", "group"]).loc[("segment", "code")]
        unseen = 1 - 0.025**0.1  # of ten problems
        assert row[["fork_rate", "low", "high"]].tolist() == pytest.approx(
            [0.5, 0.5 - unseen / 2, 0.5 + unseen / 2]
        )
        assert row[["open_rate", "open_low", "open_high"]].tolist() == pytest.approx([0, 0, unseen])

    def test_refused(self):
        with pytest.raises(UserError, match="39 labels for 40 positions"):
            label_counts(self.frame(), [LOCK] * 39)
        with pytest.raises(UserError, match="lacks the columns: syntax"):
            label_counts(self.frame().drop(columns="syntax"), [LOCK] * 40)
        with pytest.raises(UserError, match="at least one part"):
            fork_rates([])

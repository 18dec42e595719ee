"""Labels, comparison and curves against brute force over the whole vocabulary in plain numpy."""

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_probe.analysis.compare import STATISTICS, compare, position_statistics, verdicts
from ssd_probe.analysis.curves import (
    cumulative_mass,
    entropy_by_mass_bin,
    ranked_probabilities,
    stack_models,
    truncation_curves,
)
from ssd_probe.analysis.labels import (
    FORK,
    LOCK,
    NEITHER,
    SupportRule,
    score_against_truth,
    stats_of,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats

TRAIN = Decoding(1.6, 20, 0.8)


def probe_of(logits: np.ndarray, problems: int = 4, ranks: int = 64) -> pd.DataFrame:
    """A probe frame of logits [N, V], as the probe stage writes it: lists in the ranked columns."""
    columns = position_stats(torch.tensor(logits, dtype=torch.float32), top_k=ranks).to_columns()
    n = len(logits)
    frame = pd.DataFrame({
        "sample_id": np.arange(n) // 5, "problem_id": [f"p{i % problems}" for i in range(n)],
        "position": np.arange(n) % 5, "token_id": np.arange(n),
    })  # fmt: skip
    for name, values in columns.items():
        frame[name] = list(values) if values.ndim == 2 else values
    return frame


def random_logits(n: int = 60, vocab: int = 150, seed: int = 1) -> np.ndarray:
    """From sharp to flat, so that locks, forks and supports of every size occur."""
    rng = np.random.default_rng(seed)
    sharpness = np.geomspace(0.3, 30, n)[:, None]
    return (rng.normal(size=(n, vocab)) * sharpness).astype(np.float32).astype(float)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def entropy_of(p: np.ndarray) -> float:
    return -sum(x * np.log(x) for x in p if x > 0)


def support_of(logits: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Ids that survive, most likely first: one row, written from the paper's appendix A."""
    order = np.argsort(-logits, kind="stable")[: decoding.top_k]
    q = softmax(logits[order] / decoding.temperature)
    before = np.cumsum(q) - q
    return order[before < decoding.top_p]


def branching_of(logits: np.ndarray, decoding: Decoding) -> float:
    kept = support_of(logits, decoding)
    return np.exp(entropy_of(softmax(logits[kept] / decoding.temperature)))


def flat(level: float, vocab: int = 150) -> np.ndarray:
    """A level row with just enough slope that no two logits tie at the k-th."""
    return level - 1e-4 * np.arange(vocab)


def two_way(p: float, vocab: int = 150) -> np.ndarray:
    """Logits of two tokens at p and 1 - p, next to nothing else."""
    logits = flat(-40.0, vocab)
    logits[[3, 7]] = np.log([p, 1 - p])
    return logits


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


def brute_position(base: np.ndarray, tuned: np.ndarray, decoding: Decoding) -> dict[str, float]:
    kept = support_of(base, decoding)
    out = {
        "base_top1_agreement": 1.0,
        "tuned_top1_agreement": float(base.argmax() == tuned.argmax()),
    }
    for side, logits in (("base", base), ("tuned", tuned)):
        p = softmax(logits)
        out[f"{side}_entropy"] = entropy_of(p)
        out[f"{side}_tail_mass"] = np.delete(p, kept).sum()
        out[f"{side}_head_entropy"] = entropy_of(p[kept] / p[kept].sum())
        out[f"{side}_branching"] = branching_of(logits, decoding)
    return out


class TestCompare:
    decoding = Decoding(1.1, 20, 0.8)

    def pair(self):
        """Base logits, and the same with other logits of the same sharpness mixed in."""
        logits = random_logits()
        moved = logits + 0.3 * random_logits(seed=9)
        return logits, moved.astype(np.float32).astype(float)

    def test_positions_match_brute_force(self):
        logits, moved = self.pair()
        found = position_statistics(probe_of(logits), probe_of(moved), self.decoding)
        brute = pd.DataFrame(
            [brute_position(a, b, self.decoding) for a, b in zip(logits, moved, strict=True)]
        )
        assert (found["missing"] == 0).all()
        for name in brute:
            np.testing.assert_allclose(found[name], brute[name], rtol=2e-5, atol=1e-7, err_msg=name)

    def test_means_and_counts_by_label(self):
        logits, moved = self.pair()
        base, tuned = probe_of(logits), probe_of(moved)
        labels = SupportRule().label(base)
        table = compare(base, tuned, labels, self.decoding, n_resamples=50)
        assert list(table["label"].unique()) == ["all", FORK, LOCK, NEITHER]
        by_position = position_statistics(base, tuned, self.decoding)
        for row in table.itertuples():
            rows = by_position[(labels == row.label) | (row.label == "all")]
            assert row.positions == len(rows)
            assert row.problems == rows["problem_id"].nunique()
            assert row.base == pytest.approx(rows[f"base_{row.statistic}"].mean())
            assert row.difference == pytest.approx(row.tuned - row.base, abs=1e-12)
            assert row.low <= row.difference <= row.high or np.isnan(row.low)

    def test_a_small_tail_keeps_its_digits(self):
        """A lock of 1 - 3e-9: 1 - KeptMass in float32, or even 1 - sum of it, would be noise."""
        logits = flat(0.0)
        others = np.exp(np.delete(logits, 5)).sum()
        logits[5] = np.log(others / 3e-9)
        frame = probe_of(logits[None])
        found = position_statistics(frame, frame, self.decoding)
        assert found["base_tail_mass"].item() == pytest.approx(3e-9, rel=1e-5)
        assert found["tuned_tail_mass"].item() == pytest.approx(3e-9, rel=1e-5)

    def test_tokens_the_tuned_ranks_lack_are_counted_and_sit_in_the_tail(self):
        base = np.tile(flat(0.0), (2, 1))
        base[:, :2] += 10
        tuned = np.arange(150.0)[None].repeat(2, 0) / 10
        tuned[1, 0] = 20.0
        found = position_statistics(probe_of(base), probe_of(tuned), self.decoding)
        assert found["missing"].tolist() == [2, 1]
        assert found["tuned_tail_mass"][0] == pytest.approx(1)
        assert found["tuned_head_entropy"].tolist() == [0, 0]
        table = compare(probe_of(base), probe_of(tuned), [FORK] * 2, self.decoding, n_resamples=9)
        assert (table["missing"] == 1).all()

    def test_a_vocabulary_smaller_than_the_ranks(self):
        logits = random_logits(6, vocab=10)
        found = position_statistics(probe_of(logits), probe_of(logits), self.decoding)
        brute = [brute_position(row, row, self.decoding)["tuned_tail_mass"] for row in logits]
        np.testing.assert_allclose(found["tuned_tail_mass"], brute, rtol=1e-5, atol=1e-9)
        assert (found["missing"] == 0).all()

    def test_one_model_against_itself_has_no_difference(self):
        frame = probe_of(random_logits())
        table = compare(frame, frame, SupportRule().label(frame), self.decoding, n_resamples=50)
        assert (table[["difference", "low", "high"]] == 0).all(axis=None)

    def test_rows_invalid_in_either_probe_are_left_out(self):
        logits, moved = self.pair()
        logits[0, 0], moved[1, 0] = np.nan, np.inf
        table = compare(
            probe_of(logits), probe_of(moved), [LOCK] * 60, self.decoding, n_resamples=9
        )
        assert (table["positions"] == 58).all()
        assert table.drop(columns=["label", "statistic"]).notna().all(axis=None)

    def test_the_interval_resamples_problems_not_positions(self):
        """Every position of a problem moves alike: 50 times the rows tell nothing more."""
        rng = np.random.default_rng(0)
        shift = rng.normal(0.5, 0.3, 12)
        few = [two_way(0.9) for _ in shift]
        moved = [two_way(0.9) * (1 + s) for s in shift]
        widths = []
        for copies in (1, 50):
            base = probe_of(np.repeat(few, copies, 0))
            tuned = probe_of(np.repeat(moved, copies, 0))
            base["problem_id"] = np.repeat(np.arange(12), copies)
            table = compare(base, tuned, [LOCK] * len(base), self.decoding, n_resamples=400)
            row = table.set_index(["label", "statistic"]).loc[(LOCK, "entropy")]
            assert row["problems"] == 12
            widths.append(row["high"] - row["low"])
        assert widths[0] == pytest.approx(widths[1], rel=1e-4) and widths[0] > 0

    def test_rows_that_do_not_line_up_are_refused(self):
        frame = probe_of(random_logits())
        other = frame.assign(token_id=frame["token_id"].where(frame.index != 7, -1))
        for tuned, message in (
            (frame.iloc[1:], "60 base rows, 59 tuned rows"),
            (other, "differ in token_id from row 7"),
            (frame.drop(columns="position"), "the tuned probe lacks the columns: position"),
        ):
            with pytest.raises(UserError, match=message):
                compare(frame, tuned, [LOCK] * 60, self.decoding)
        with pytest.raises(UserError, match="59 labels for 60 positions"):
            compare(frame, frame, [LOCK] * 59, self.decoding)

    def test_seeded(self):
        logits, moved = self.pair()
        base, tuned = probe_of(logits), probe_of(moved)
        tables = [
            compare(base, tuned, [LOCK] * 60, self.decoding, n_resamples=99, seed=s)
            for s in (1, 1, 2)
        ]
        pd.testing.assert_frame_equal(tables[0], tables[1])
        assert not tables[0].equals(tables[2])


class TestVerdicts:
    @pytest.mark.parametrize("low, high, lost, kept", [
        (-0.5, -0.2, True, False),  # all of the interval fell by more than 5 % of 1.0
        (-0.04, 0.3, False, True),  # all of it stayed above
        (-0.2, 0.1, None, None),  # across the margin
        (np.nan, np.nan, None, None),  # one problem
    ])  # fmt: skip
    def test_both_claims(self, low, high, lost, kept):
        rows = [
            (label, name, 9, 3, 1.0, 0.7, -0.3, low, high, 0.0)
            for label, name in ((LOCK, "tail_mass"), (FORK, "head_entropy"), (FORK, "tail_mass"))
        ]
        columns = "label statistic positions problems base tuned difference low high missing"
        locks, forks = verdicts(pd.DataFrame(rows, columns=columns.split()))
        assert (locks.holds, forks.holds) == (lost, kept)
        assert "tail mass at locks 1 -> 0.7, difference -0.3" in locks.sentence
        assert forks.sentence.startswith("forks kept their head: ")

    def test_nothing_below_the_noise_floor_is_called_real(self):
        logits = random_logits()
        base, tuned = probe_of(logits), probe_of(logits * 1.02)
        again = probe_of(logits * (1 + 0.1 * np.sin(np.arange(60))[:, None]))
        noise = again[again["sample_id"] % 2 == 0]
        table = compare(base, tuned, [LOCK] * 60, TRAIN, noise=noise, n_resamples=99)
        kept = (base["sample_id"] % 2 == 0).to_numpy()
        entropy = table[(table.label == LOCK) & (table.statistic == "entropy")].iloc[0]
        change = (noise["entropy"] - base["entropy"][kept]).abs().mean()
        assert entropy["floor"] == pytest.approx(change, rel=1e-6)
        rows = table[table.statistic == "tail_mass"].assign(low=-2.0, high=-1.0)
        locks, _ = verdicts(rows)
        assert locks.holds is None and "Scoring the base again" in locks.sentence
        assert verdicts(rows.assign(floor=0.0))[0].holds is True

    def test_a_label_that_does_not_occur_is_undecided(self):
        frame = probe_of(random_logits())
        table = compare(frame, frame, [LOCK] * 60, TRAIN, n_resamples=9)
        assert set(table["statistic"]) == set(STATISTICS)
        locks, forks = verdicts(table)
        assert locks.holds is False  # nothing changed, so nothing was lost
        assert forks.holds is None and "no fork was found" in forks.sentence

    def test_ssd_in_the_ideal_is_found_to_do_what_the_paper_says(self):
        """The ideal student (Prop. B.2): the base, tempered and truncated, next to nothing else."""
        lock = np.tile(flat(-5.0), (40, 1))
        lock[:, 3] = np.linspace(3, 5, 40)
        fork = np.tile(flat(-9.0), (40, 1))
        fork[:, :3] = np.random.default_rng(0).normal(0, 0.3, (40, 3))
        base = np.concatenate([lock, fork])
        student = np.tile(flat(-20.0), (80, 1))
        for i, row in enumerate(base):
            kept = support_of(row, TRAIN)
            student[i, kept] = row[kept] / TRAIN.temperature
        frame = probe_of(base, problems=10)
        labels = SupportRule().label(frame)
        assert list(labels) == [LOCK] * 40 + [FORK] * 40
        table = compare(frame, probe_of(student, problems=10), labels, TRAIN, n_resamples=200)
        assert [verdict.holds for verdict in verdicts(table)] == [True, True]


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
        assert list(table["bin"]) == ["≥ 99.9", "≥ 99.5", "≥ 99", "≥ 98", "≥ 95", "< 95"]
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
            def decode(self, ids):
                return f"<{ids[0]}>"

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

"""Base against tuned, against brute force over the whole vocabulary in plain numpy."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_probe.analysis import theory
from ssd_probe.analysis.changes import STATISTICS, position_statistics
from ssd_probe.analysis.compare import add_totals, compare, summarise, totals, verdicts
from ssd_probe.analysis.labels import FORK, LOCK, OPEN, SupportRule
from ssd_probe.commands.compare import tokenizer_of
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.views.comparison import caveat, positions, sentence, told
from tests.probes import (
    TRAIN,
    branching_of,
    entropy_of,
    flat,
    probe_of,
    random_logits,
    softmax,
    support_of,
    two_way,
)


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
        assert list(table["label"].unique()) == ["all", *sorted(set(labels))]
        assert set(labels) >= {FORK, LOCK, OPEN}
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
        assert "at up to 100 % of the positions" in caveat(table)

    def test_nothing_missing_needs_no_caveat(self):
        frame = probe_of(random_logits())
        table = compare(frame, frame, SupportRule().label(frame), self.decoding, n_resamples=9)
        assert caveat(table) is None

    def test_a_tail_beyond_1_by_rounding_has_no_gate(self):
        """With no token of S among the tuned ranks, one such position made the mean infinite."""
        base, tuned = flat(0.0), np.arange(150.0) / 10
        base[:2] += 10
        base, tuned = probe_of(base[None]), probe_of(tuned[None])
        tuned["tail_log_mass"] = np.log(np.exp(tuned["tail_log_mass"]) + 1e-6)
        found = position_statistics(base, tuned, self.decoding).iloc[0]
        assert found["missing"] == 2
        assert found["tuned_gate_part"] == 0 and found["tuned_tail_mass"] == 1
        assert found["tuned_tail_part"] == found["tuned_entropy"]

    def test_a_row_that_is_not_valid_has_no_statistics(self):
        logits = random_logits(6)
        spoilt = logits.copy()
        spoilt[2, 0] = np.nan
        for pair in ((logits, spoilt), (spoilt, logits)):
            found = position_statistics(*map(probe_of, pair), self.decoding)
            lost = found[["base_kept_mass", "tuned_kept_mass", "tuned_target_kl"]].isna()
            assert lost.iloc[2].all() and not lost.drop(2).any().any()
            assert found["missing"][2] == 0

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
            (label, name, 30, 3, 1.0, 0.7, -0.3, low, high, 0.0)
            for label, name in ((LOCK, "tail_mass"), (FORK, "head_entropy"), (FORK, "tail_mass"))
        ]
        rows += [("all", "tail_mass", 100, 3, 1.0, 0.7, -0.3, low, high, 0.0)]
        columns = "label statistic positions problems base tuned difference low high missing"
        table = pd.DataFrame(rows, columns=columns.split())
        locks, forks = verdicts(table)
        assert (locks.holds, forks.holds) == (lost, kept)
        few = table.assign(positions=table["positions"] - 1)
        assert [verdict.holds for verdict in verdicts(few)] == [None, None]
        assert "undecided (29 locks, and a verdict needs 30). Mean" in sentence(verdicts(few)[0])
        most = table.assign(positions=[600, 30, 30, 631])
        told = [verdict.holds for verdict in verdicts(most)]
        assert told == [None, kept] and "95.1 % of the positions are locks" in sentence(
            verdicts(most)[0]
        )
        assert re.search(
            r"tail mass at locks 1\.0+ -> 0\.70+, difference -0\.30+ ", sentence(locks)
        )
        assert sentence(forks).startswith("forks kept their head: ")
        alone = sentence(verdicts(table.assign(low=np.nan, high=np.nan))[0])  # of one problem
        assert "difference -0.300 (no interval: too few problems) over 30" in alone

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
        rows.loc[rows.label == "all", "positions"] = 100
        locks, _ = verdicts(rows)
        assert locks.holds is None and "Scoring the base again" in sentence(locks)
        assert verdicts(rows.assign(floor=0.0))[0].holds is True

    def test_a_label_that_does_not_occur_is_undecided(self):
        frame = probe_of(random_logits())
        table = compare(frame, frame, [LOCK] * 50 + [OPEN] * 10, TRAIN, n_resamples=9)
        assert set(table["statistic"]) == set(STATISTICS)
        locks, forks = verdicts(table)
        assert locks.holds is False  # nothing changed, so nothing was lost
        told = "forks kept their head: undecided (0 forks, and a verdict needs 30)."
        assert forks.holds is None and sentence(forks) == told
        counts = (
            "60 positions: 50 locks (83.3 %), 0 forks (0 %), 10 open (16.7 %), 0 neither (0 %)."
        )
        assert positions(table) == counts

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
        labels = SupportRule(TRAIN).label(frame)
        assert list(labels) == [LOCK] * 40 + [FORK] * 40
        table = compare(frame, probe_of(student, problems=10), labels, TRAIN, n_resamples=200)
        assert [verdict.holds for verdict in verdicts(table)] == [True, True]


class TestLossTerms:
    """The position statistics against `theory` on the whole vocabulary."""

    decoding = Decoding(1.3, 20, 0.9)

    def pair(self, vocab=50):  # no more than the ranks: nothing is unknown
        base = random_logits(vocab=vocab).astype(np.float32).astype(float)
        tuned = (base + 0.5 * random_logits(seed=3, vocab=vocab)).astype(np.float32).astype(float)
        return base, tuned

    def test_terms_target_and_split_are_those_of_the_theory(self):
        base, tuned = self.pair()
        found = position_statistics(probe_of(base), probe_of(tuned), self.decoding)
        terms = theory.three_term_loss(tuned, base, self.decoding)
        q, inside = theory.target(base, self.decoding), theory.support(base, self.decoding)
        split = theory.entropy_split(tuned, inside)
        truth = {
            "compression": terms.compression, "reshaping": terms.reshaping,
            "alignment": terms.alignment, "target_kl": theory.kl_divergence(q, tuned),
            "gate_part": split.gate, "head_part": split.head, "tail_part": split.tail,
            "kept_mass": theory.kept_mass(tuned, inside), "entropy": theory.entropy(tuned),
        }  # fmt: skip
        for name, values in truth.items():
            np.testing.assert_allclose(
                found[f"tuned_{name}"], values, rtol=2e-5, atol=2e-6, err_msg=name
            )

    def test_the_ideal_student_is_at_its_target(self):
        base, _ = self.pair()
        student = np.where(np.isfinite(q := theory.target(base, self.decoding)), q, -60)
        found = position_statistics(probe_of(base), probe_of(student), self.decoding)
        np.testing.assert_allclose(found["tuned_target_kl"], 0, atol=1e-6)
        assert (found["base_target_kl"] > found["tuned_target_kl"]).mean() > 0.9

    def test_tokens_beyond_the_ranks_bound_the_loss_from_below(self):
        base, tuned = self.pair(vocab=150)
        exact = position_statistics(
            probe_of(base, ranks=150), probe_of(tuned, ranks=150), self.decoding
        )
        few = position_statistics(
            probe_of(base, ranks=24), probe_of(tuned, ranks=24), self.decoding
        )
        lacking = few["missing"] > 0
        assert 0 < lacking.sum() < len(few)
        gap = exact["tuned_target_kl"] - few["tuned_target_kl"]
        assert (gap[lacking] > 0).all()
        np.testing.assert_allclose(gap[~lacking], 0, atol=1e-6)

    def test_greedy_training_has_no_loss(self):
        base, tuned = self.pair()
        found = position_statistics(probe_of(base), probe_of(tuned), Decoding(0.0))
        assert found["tuned_target_kl"].isna().all()
        table = compare(probe_of(base), probe_of(tuned), [LOCK] * 60, Decoding(0.0), n_resamples=9)
        assert "target_kl" not in set(table["statistic"]) and "entropy" in set(table["statistic"])

    def test_a_pair_knows_every_token_and_the_divergences(self):
        base, tuned = self.pair(vocab=150)
        frame, other = probe_of(base, ranks=24), probe_of(tuned, ranks=24)
        both = pair_stats(*(torch.tensor(x, dtype=torch.float32) for x in (base, tuned)), top_k=24)
        frame["other_at_base_top"] = list(both.other_at_base_top.numpy())
        for column, values in (("kl_base_other", both.kl_base_other), ("js", both.js),
                               ("tv", both.tv)):  # fmt: skip
            frame[column] = values.numpy()
        found = position_statistics(frame, other, self.decoding)
        exact = position_statistics(
            probe_of(base, ranks=150), probe_of(tuned, ranks=150), self.decoding
        )
        assert (found["missing"] == 0).all()
        for name in ("target_kl", "tail_mass", "kept_mass", "head_entropy"):
            np.testing.assert_allclose(
                found[f"tuned_{name}"], exact[f"tuned_{name}"], rtol=2e-4, atol=2e-6, err_msg=name
            )
        table = compare(frame, other, [LOCK] * 60, self.decoding, n_resamples=9)
        kl = table[(table["label"] == "all") & (table["statistic"] == "kl")].iloc[0]
        truth = theory.kl_divergence(base, tuned).mean()
        assert kl["base"] == 0 and kl["tuned"] == pytest.approx(truth, rel=1e-4)


class TestTotals:
    def test_parts_add_up_to_the_whole(self):
        base = random_logits()
        frames = probe_of(base), probe_of(base + 0.3 * random_logits(seed=9))
        labels = SupportRule().label(frames[0]).to_numpy()
        whole = compare(*frames, labels, TRAIN, n_resamples=50)
        parts = add_totals(
            totals(*(f.iloc[a:b] for f in frames), labels[a:b], TRAIN)
            for a, b in ((0, 20), (20, 21), (21, 60))
        )
        joined = summarise(parts, n_resamples=50)
        ends = ["low", "high"]  # four problems: rounding moves a percentile between few values
        pd.testing.assert_frame_equal(joined.drop(columns=ends), whole.drop(columns=ends))
        assert ((joined["low"] <= joined["difference"] + 1e-12) | joined["low"].isna()).all()
        with pytest.raises(UserError, match="no parts"):
            add_totals([])


def test_a_terminal_gets_the_sentences_first_in_100_columns():
    base, tuned = probe_of(random_logits(200)), probe_of(random_logits(200) * 1.5)
    table = compare(base, tuned, SupportRule().label(base), TRAIN)
    sentences = ["Many positions. " * 20, "locks lost their tail: yes."]
    short, full = (str(told(table, sentences, full=each)) for each in (False, True))
    for text in (short, full):
        lines = text.splitlines()
        assert lines[0].startswith("Many positions.") and max(map(len, lines)) <= 100
    assert len(short.splitlines()) < 35 < len(full.splitlines())
    assert "kept mass" in short and "head part" not in short and "head part" in full


def test_a_student_names_its_bases_tokens_where_the_base_is_gone():
    gone, here = (SimpleNamespace(record={"model": model}) for model in ("no/where", "tiny"))
    assert tokenizer_of(gone, None) is None
    assert tokenizer_of(gone, here).decode([5]) == tokenizer_of(here).decode([5])

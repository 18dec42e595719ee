"""Leverage of T_eval, and the one pass over two probes in parts."""

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.changes import STATISTICS
from ssd_probe.analysis.compare import compare, loss_parts
from ssd_probe.analysis.curves import (
    cumulative_mass,
    entropy_by_mass_bin,
    pooled,
    tempered_ranks,
    truncation_curves,
)
from ssd_probe.analysis.digest import digest, leverage_verdict
from ssd_probe.analysis.examples.chosen import example_positions, example_text
from ssd_probe.analysis.frames import Missing
from ssd_probe.analysis.labels import FORK, LOCK, SupportRule
from ssd_probe.analysis.leverage import conflict_totals, leverage
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.comparison_set import draw_digest
from tests.probes import (
    TRAIN,
    branching_of,
    flat,
    probe_of,
    random_logits,
    softmax,
    support_of,
)

GRID = (0.5, 1.0, 1.5, 2.0)
OPEN = {"top_k": 20, "top_p": 1.0}
ENOUGH = {"all": 90, LOCK: 40, FORK: 40}  # positions for a verdict


def locks_and_forks(tail: float, problems: int = 8):
    """A lock and a fork a problem: the lock loses `tail` to nine others, the fork has two ways."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(problems):
        lock = flat(-60.0)
        lock[:10] = np.log([1 - tail, *[tail / 9] * 9]) - 1e-3 * np.arange(10)
        fork = flat(-60.0)
        fork[:2] = 0, -rng.uniform(0.2, 1.0)
        rows += [lock, fork]
    frame = probe_of(np.array(rows), problems=problems)
    frame["problem_id"] = np.repeat([f"p{i}" for i in range(problems)], 2)
    return frame, np.array([LOCK, FORK] * problems)


class TestLeverage:
    def test_against_brute_force_on_the_grid(self):
        """A student without a tail may be heated to the top; the base stops where it stood."""
        base, kinds = locks_and_forks(0.05)
        tuned, _ = locks_and_forks(1e-9)
        sums = conflict_totals(base, tuned, kinds, base["problem_id"], GRID, **OPEN)
        found = leverage(sums, n_resamples=99)
        assert found.slip == pytest.approx(0.05, rel=0.01)
        assert (found.base_temperature, found.tuned_temperature) == (1.0, 2.0)
        rows = np.stack(base["top_logits"].to_numpy())[kinds == FORK][:, :2]
        for at, value in ((1.0, found.base), (2.0, found.tuned)):
            p = np.array([softmax(row / at) for row in rows])
            assert value == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-6)
        assert found.low <= found.difference <= found.high and found.low > 0
        assert found.problems == 8

    def test_between_the_grid_it_is_linear(self):
        base, kinds = locks_and_forks(0.05)
        looser, _ = locks_and_forks(0.1)
        sums = conflict_totals(base, looser, kinds, base["problem_id"], GRID, **OPEN)
        found = leverage(sums, n_resamples=9)
        slips = sums.xs(LOCK, level="label")["tuned"].groupby(level="temperature").mean()
        expected = np.interp(found.slip, slips.loc[[0.5, 1.0]], [0.5, 1.0])
        assert found.tuned_temperature == pytest.approx(expected)
        assert found.difference < 0

    def test_one_model_against_itself_gains_nothing(self):
        base, kinds = locks_and_forks(0.05)
        found = leverage(conflict_totals(base, base, kinds, base["problem_id"]), n_resamples=99)
        assert found.difference == found.low == found.high == 0
        assert leverage_verdict(found, ENOUGH).holds is False
        few = leverage_verdict(found, ENOUGH | {FORK: 29})
        assert few.holds is None and few.basis["unfit"] == "29 forks, and a verdict needs 30"

    def test_parts_add_and_bad_input(self):
        base, kinds = locks_and_forks(0.05)
        tuned, _ = locks_and_forks(0.001)
        problems = base["problem_id"]
        whole = leverage(conflict_totals(base, tuned, kinds, problems), n_resamples=50)
        parts = [
            conflict_totals(base[a:b], tuned[a:b], kinds[a:b], problems[a:b])
            for a, b in ((0, 6), (6, 16))
        ]
        np.testing.assert_allclose(leverage(parts, n_resamples=50), whole, rtol=1e-9)
        with pytest.raises(UserError, match="there is no fork"):
            leverage(conflict_totals(base, tuned, [LOCK] * 16, problems))
        with pytest.raises(UserError, match="on both sides of 1"):
            leverage(conflict_totals(base, tuned, kinds, problems, (1.5, 2.0)))
        single = leverage(conflict_totals(base, tuned, kinds, ["p"] * 16))
        assert np.isnan(single.low) and leverage_verdict(single, ENOUGH).holds is None
        assert leverage_verdict(None, ENOUGH | {FORK: 0}).holds is None

    def test_positions_invalid_in_one_model_are_left_out(self):
        base, kinds = locks_and_forks(0.05)
        broken = base.assign(valid=[False, *[True] * 15])
        sums = conflict_totals(base, broken, kinds, base["problem_id"], GRID)
        assert sums.loc[LOCK]["positions"].groupby(level="temperature").sum().eq(7).all()


def test_pooled_is_the_curve_of_the_whole():
    frame = probe_of(random_logits())
    halves = frame.iloc[:13], frame.iloc[13:]
    for curve, by in (
        (lambda f: cumulative_mass(f, 60), "rank"),
        (lambda f: truncation_curves(f, (0.7, 1.3)), "temperature"),
        (lambda f: entropy_by_mass_bin(f, TRAIN), ["bin", "least_mass"]),
    ):
        whole = curve(frame)
        joined = pooled([curve(half) for half in halves], by)
        pd.testing.assert_frame_equal(joined[whole.columns], whole, check_dtype=False)
    with pytest.raises(UserError, match="at least one part"):
        pooled([], "rank")


def test_tempered_ranks():
    row = probe_of(random_logits()).iloc[3]
    table = tempered_ranks(row, TRAIN, (0.5, 2.0))
    for t, rows in table.groupby("temperature"):
        np.testing.assert_allclose(rows["probability"], softmax(row["top_logits"] / t), rtol=1e-6)
        assert rows["head"].sum() == len(np.flatnonzero(rows["head"])) > 0


class TestDigest:
    logits = np.random.default_rng(5).permutation(random_logits())  # sharp and flat ones mixed

    def frames(self):
        base = self.logits
        frames = []
        for logits in (base, base + 0.3 * random_logits(seed=9)):
            frame = probe_of(logits)
            frame["segment"], frame["syntax"] = "code", "Name"
            frame["token"] = [f"t{i} " for i in range(len(frame))]
            frames.append(frame)
        return frames

    def test_is_what_the_single_functions_say(self, tmp_path):
        base, tuned = self.frames()
        rule = SupportRule()
        cuts = [(0, 25), (25, 60)]
        parts = [(base[a:b].reset_index(drop=True), tuned[a:b].reset_index(drop=True))
                 for a, b in cuts]  # fmt: skip
        noise = base[base["sample_id"] == 2]
        found = digest(parts, rule, TRAIN, where="60 positions", noise=noise, n_resamples=50)
        whole = compare(base, tuned, rule.label(base), TRAIN, noise=noise, n_resamples=50)
        ends = ["low", "high"]
        pd.testing.assert_frame_equal(found.comparison.drop(columns=ends), whole.drop(columns=ends))
        curves = found.curves[found.curves["model"] == "tuned"].reset_index(drop=True)
        np.testing.assert_allclose(curves["entropy"], truncation_curves(tuned)["entropy"])
        assert len(found.verdicts) == 3
        assert found.bins["model"].unique().tolist() == ["base", "tuned"]
        first = base[:25]
        labels = rule.label(first)
        examples = example_positions(first, tuned[:25], labels, TRAIN)
        for kind in (FORK, LOCK):
            row = examples[kind][0]
            few = [kind == LOCK or 2 <= len(support_of(x, TRAIN)) <= 6 for x in self.logits[:25]]
            follows = first["position"] > 0
            among = first["entropy"][(labels == kind) & np.array(few) & follows]
            assert row["entropy"] == among.sort_values().iloc[(len(among) - 1) // 2]
            here = row.name
            same = first["sample_id"].iloc[:here] == row["sample_id"]
            assert row["context"] == "".join(first["token"].iloc[:here][same]) != ""
        ranked = found.ranked.drop_duplicates("label").set_index("label")
        assert ranked.loc[FORK, "context"] == examples[FORK][0]["context"]
        np.testing.assert_allclose(
            found.text["branching"].iloc[0],
            branching_of(self.logits[found.text.index[0]], rule.decoding), rtol=1e-5,
        )  # fmt: skip
        paths, missing = draw_digest(found, tmp_path)
        assert missing == [] and {p.stem for p in paths} == {
            "fig_4", "fig_4_bars", "fig_5", "fig_8", "fig_6a", "fig_6b", "fig_6c", "fig_6d",
            "loss_terms", "fork_rates",
        }  # fmt: skip

    def test_figure_4_shows_the_text_with_the_median_share_of_forks(self):
        frame = probe_of(random_logits(20)).assign(segment="code", token="a")
        frame["sample_id"] = np.repeat([0, 1, 2, 3], [2, 6, 6, 6])
        forks = np.repeat([1, 5, 0, 2], [2, 6, 6, 6])  # of each text; the first is too short
        place = frame.groupby("sample_id").cumcount()
        labels = pd.Series(np.where(place < forks, FORK, LOCK), frame.index)
        shown = example_text(frame, labels, TRAIN)
        assert list(shown.index) == list(frame.index[frame["sample_id"] == 3])
        with pytest.raises(UserError, match="neither|no text or code"):
            example_text(frame.assign(segment="prompt"), labels, TRAIN)

    def test_few_ranks_and_no_forks_are_missing_figures_with_a_reason(self, tmp_path):
        lock = flat(-60.0)
        lock[4] = 0.0
        frame = probe_of(np.tile(lock, (6, 1)), ranks=10)
        frame["segment"], frame["syntax"], frame["token"] = "prompt", None, "a"
        decoding = Decoding(1.6, 5, 0.8)
        found = digest([(frame, frame)], SupportRule(decoding), decoding, n_resamples=9)
        assert found.leverage is None and found.verdicts[2].holds is None
        _, missing = draw_digest(found, tmp_path)
        assert [name for name, _ in missing] == ["fig_4", "fig_4_bars", "fig_5", "fig_8", "fig_6d"]
        assert set(found.comparison["statistic"]) == set(STATISTICS)

    def test_ten_ranks_lack_single_figures_and_stop_nothing(self, tmp_path):
        few = [probe_of(logits, ranks=10).assign(segment="code", syntax="Name", token="a")
               for logits in (self.logits, self.logits)]  # fmt: skip
        few = [frame[frame["entropy"] < 2].reset_index(drop=True) for frame in few]
        at = Decoding(1.6, 5, 0.8)
        found = digest([tuple(few)], SupportRule(at), at, n_resamples=9)
        assert [name for name, x in found._asdict().items() if isinstance(x, Missing)] == [
            "bins", "ranked",
        ]  # fmt: skip
        assert found.ranked.why == "the probe keeps 10 ranks, 12 were asked for"
        told = found.comparison[found.comparison["statistic"] != "target_kl"]
        with pytest.raises(UserError, match="greedy training has no loss terms"):
            loss_parts(told)
        drawn = draw_digest(found._replace(mass=Missing("m"), text=Missing("t")), tmp_path)
        assert [name for name, _ in drawn.missing] == ["fig_4", "fig_5", "fig_6a", "fig_6d"]

    def test_nothing_to_compare(self):
        base, tuned = self.frames()
        with pytest.raises(UserError, match="no position is valid in both"):
            digest([], SupportRule(), TRAIN)
        with pytest.raises(UserError, match="no position is valid in both"):
            digest([(base, tuned.assign(valid=False))], SupportRule(), TRAIN)

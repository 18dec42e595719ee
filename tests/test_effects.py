"""Rivals at locks and forks: against the vocabulary, against ideal students, at equal slip."""

from functools import partial

import numpy as np
import pytest
import torch

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.feasible import RESOLUTION
from ssd_probe.analysis.prediction.positions import Sample
from ssd_probe.analysis.prediction.predict import by_label, exactly_known, predict
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats
from ssd_probe.policies.effects import compare_policies, untold
from ssd_probe.policies.parsing import NAMES, USUAL, own_decoding, policy_of
from ssd_probe.views.prediction import told_rivals
from tests.probes import entropy_of, random_logits, two_way

INSIDE, CUT = PAPER_TRAIN, Decoding(1.0, 20, 0.8)
TRAINS = [Decoding(1.6, 20, 0.8), Decoding(0.9, 5, 0.95)]
AT = [0.4, 1.0, 1.7]
VOCAB = 150
LOGITS = random_logits(n=90, vocab=VOCAB)
KINDS = np.array([LOCK, FORK])[(np.arange(90) < 45).astype(int)]  # the sharp ones are locks


def tempered(text, temperature):
    evaluation = Decoding(temperature, CUT.top_k, CUT.top_p)
    return policy_of(text, evaluation if text is None else own_decoding(text, evaluation))


def two_stage(train):
    return f"two-stage(T_train={train.temperature}, top_k={train.top_k}, top_p={train.top_p})"


def sample_of(logits=LOGITS, kinds=KINDS, ranks=64):
    stats = position_stats(torch.tensor(logits, dtype=torch.float32), top_k=ranks)
    return Sample(stats, kinds, np.arange(len(kinds)), len(kinds))


def found(texts, ranks=64, temperatures=AT, logits=LOGITS, kinds=KINDS):
    sample = sample_of(logits, kinds, ranks)
    evals = [Decoding(t, CUT.top_k, CUT.top_p) for t in temperatures]
    stats = by_label(sample, exactly_known(sample.stats, TRAINS, evals).numpy())
    policies = {text: partial(tempered, text) for text in texts}
    return compare_policies(stats, policies, partial(tempered, None), temperatures, INSIDE)


def cell(effects, policy, temperature, label):
    rows = effects.cells.query("policy == @policy and temperature == @temperature")
    (row,) = rows[rows["label"] == label].to_dict("records")
    return row


@pytest.mark.parametrize("train", TRAINS, ids=str)
def test_two_stage_is_the_student_that_predict_predicts(train):
    """Prop. B.2, and the base: two computations, the same numbers."""
    evals = [Decoding(t, CUT.top_k, CUT.top_p) for t in AT]
    students = predict(sample_of(), TRAINS, evals).cells
    text = two_stage(train)
    effects = found([text])
    of_train = (students["T_train"] == train.temperature) & (students["top_k_train"] == train.top_k)
    for label in (LOCK, FORK):
        for t in AT:
            want = students[of_train & (students["label"] == label) & (students["T_eval"] == t)]
            (want,) = want.to_dict("records")
            have = cell(effects, text, t, label)
            assert have["positions"] == want["positions"] and have["exact"] == 1
            for ours, theirs in (("size", "survivors"), ("entropy", "entropy"),
                                 ("branching", "branching")):  # fmt: skip
                assert have[ours] == pytest.approx(want[theirs], rel=1e-9, abs=1e-9)
            assert 1 - have["slip"] == pytest.approx(want["top1"], abs=1e-9)
            if train == INSIDE:
                assert have["tail"] == 0
                assert have["head_entropy"] == pytest.approx(have["entropy"], abs=1e-12)


@pytest.mark.parametrize("text", [*USUAL, "two-stage", "by-label(T_lock=0.5, T_other=1.0)"])
@pytest.mark.parametrize("temperature", AT)
def test_with_all_ranks_every_number_is_that_of_the_vocabulary(text, temperature):
    effects = found([text], ranks=VOCAB)
    logits = torch.tensor(LOGITS, dtype=torch.float32)
    q = tempered(text, temperature).probabilities(logits).numpy()
    p = logits.double().softmax(-1).numpy()
    head = INSIDE.probabilities(logits).numpy() > 0
    top = LOGITS.argmax(1)
    for label in (LOCK, FORK):
        rows = label == KINDS
        inner = [row[keep] / row[keep].sum() for row, keep in zip(q, head, strict=True)
                 if row[keep].sum() > 0]  # fmt: skip
        inner = [x for x, here in zip(inner, rows, strict=True) if here]
        want = {
            "positions": rows.sum(),
            "size": (q > 0)[rows].sum(1).mean(),
            "kept_mass": (p * (q > 0))[rows].sum(1).mean(),
            "slip": 1 - q[np.arange(len(q)), top][rows].mean(),
            "tail": (q * ~head)[rows].sum(1).mean(),
            "head_entropy": np.mean([entropy_of(x) for x in inner]),
            "entropy": np.mean([entropy_of(x) for x in q[rows]]),
            "branching": np.mean([np.exp(entropy_of(x)) for x in q[rows]]),
            "exact": 1,
        }
        have = cell(effects, text, temperature, label)
        assert {key: have[key] for key in want} == pytest.approx(want, rel=1e-5, abs=1e-5)


def test_the_level_is_the_highest_temperature_within_the_base_s_slip():
    kinds = np.array([LOCK] * 20 + [FORK] * 20)
    logits = np.array([two_way(p) for p in [*np.linspace(0.93, 0.999, 20),
                                            *np.linspace(0.5, 0.7, 20)]])  # fmt: skip
    texts = [None, "min-p(0.01)", "typical(0.99)", "edt(theta=0.5)"]
    grid = [0.2, 0.7, 1.5, 3.0]
    effects = found(texts, ranks=VOCAB, temperatures=grid, logits=logits, kinds=kinds)
    # At T=1 top-p 0.8 leaves the base's locks no slip: 0.001 is allowed.
    assert effects.slip == pytest.approx(1e-3)
    heads = effects.level["head_entropy"].dropna()
    assert len(heads) > 2 and heads.is_monotonic_decreasing
    level = effects.level.set_index("policy")
    lock = torch.tensor(logits[:20], dtype=torch.float32)
    for text in texts[1:]:

        def slip(t, text=text):
            return 1 - tempered(text, t).probabilities(lock).amax(-1).mean().item()

        t, end = level.loc[text, ["temperature", "end"]]
        assert not end and grid[0] < t < grid[-1]
        assert slip(t) <= effects.slip < slip(t + 2 * RESOLUTION)
        assert level.loc[text, "slip"] == pytest.approx(slip(t), abs=1e-6)
    never = found(["min-p(0.01)"], ranks=VOCAB, temperatures=[1.0, 2.0], logits=logits, kinds=kinds)
    assert never.level["temperature"].isna().all() and never.level["entropy"].isna().all()
    always = found(["min-p(0.9)"], ranks=VOCAB, temperatures=grid, logits=logits, kinds=kinds)
    assert always.level[["temperature", "end"]].to_numpy().tolist() == [[3.0, True]]


def test_what_the_ranks_do_not_say_is_flagged_or_refused():
    effects = found(["typical(0.95)", "min-p(0.1)", "two-stage"])
    exact = effects.level.set_index("policy")["exact"]
    assert exact["typical(0.95)"] < 0.1 < exact["min-p(0.1)"] <= 1 == exact["two-stage"]
    said = " ".join(told_rivals(effects, {"adapt": "because"})[0])
    assert "adapt is left out: because." in said
    flagged = said.split("64 ranks kept", 1)[1]
    assert "typical(0.95)" in flagged and "two-stage" not in flagged
    with pytest.raises(UserError, match="top-n-sigma.*standard deviation of all logits"):
        found(["top-n-sigma(1)"])
    with pytest.raises(UserError, match="adapt: ranks do not say where a line begins"):
        found(["adapt"])
    assert untold(tempered("top-n-sigma(1)", 1.0), [sample_of(ranks=VOCAB).stats]) is None


def test_the_usual_rivals_are_policies_each_of_another_kind():
    kinds = [policy_of(text, Decoding()).name for text in USUAL]
    assert len(set(kinds)) == len(kinds)
    # Students are two-stage; by-label has no published setting; adapt reads the text.
    assert {*NAMES} - {*kinds} == {"two-stage", "by-label", "adapt"}


def test_a_rule_goes_without_top_k_and_top_p_as_published():
    at = Decoding(0.7, 20, 0.8)
    assert own_decoding("min-p(0.1)", at) == own_decoding("top-h", at) == Decoding(0.7)
    assert own_decoding("two-stage", at) == own_decoding("edt(1)", at) == at

"""Policies: each against an independent implementation on 10,000 rows; names; what ranks say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from ssd_probe.analysis.labels import FORK, LOCK, SupportRule
from ssd_probe.analysis.prediction.ideal import Ranks, draws, ideal_student
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats
from ssd_probe.kernels.supports.rules import MinP
from ssd_probe.policies.parsing import NAMES, policy_of
from ssd_probe.policies.ranks import drawn
from ssd_probe.policies.rivals import AdapT, ByLabel, Cut, Edt, TwoStage
from tests.rows import RECIPES

SIZE = 97  # below the 100 ranks that TopHLogitsWarper looks at
NUDGE = 1e-12
EPSILON = 2**-7  # EtaLogitsWarper keeps it in float32
WARPERS = {
    "min-p(0.1)": lambda by: theirs.MinPLogitsWarper(0.1 * by),
    "min-p(0.9)": lambda by: theirs.MinPLogitsWarper(0.9 * by),
    f"epsilon({EPSILON})": lambda by: theirs.EpsilonLogitsWarper(EPSILON * by),
    f"eta({EPSILON})": lambda by: in_float64(theirs.EtaLogitsWarper(EPSILON), EPSILON * by),
    "typical(0.2)": lambda by: theirs.TypicalLogitsWarper(0.2 * by),
    "typical(0.95)": lambda by: theirs.TypicalLogitsWarper(0.95 * by),
    "top-h(0.4)": lambda by: theirs.TopHLogitsWarper(0.4 * by),
    "top-h(0.9)": lambda by: theirs.TopHLogitsWarper(0.9 * by),
}
EVERY = ["two-stage", "two-stage(T_train=0.9, top_k=0, top_p=0.85)", "min-p(0.1)",
         "top-n-sigma(1)", "epsilon(0.01)", "eta(0.01)", "typical(0.9)", "top-h",
         "edt(theta=0.5)", "by-label(T_lock=0.3, T_other=0.8)", "adapt"]  # fmt: skip


def in_float64(warper, epsilon):
    warper.epsilon = torch.tensor(epsilon, dtype=torch.float64)
    return warper


@pytest.fixture(scope="module")
def rows():
    """[10,000, SIZE] float32: the corpus with other seeds, without NaN and +inf."""
    recipes = [row for row in RECIPES if not row.bad]
    seeds = range(10_000 // len(recipes) + 1)
    many = [replace(row, seed=row.seed + 1000 * seed) for seed in seeds for row in recipes]
    built = torch.stack([row.build(SIZE) for row in many[:10_000]])
    alive = (built > -torch.inf).any(-1)
    assert alive.sum() > 9_000
    return built[alive]


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(0.7), Decoding(1.6, 20)], ids=str)
@pytest.mark.parametrize("text", WARPERS)
def test_rules_as_transformers(rows, text, decoding):
    x = rows.double()
    before = decoding.warp(x)
    before = before - before.amax(-1, keepdim=True)  # theirs loses the entropy of large logits
    found = policy_of(text, decoding).probabilities(x)
    survivors = [WARPERS[text](by)(None, before) for by in (1 - NUDGE, 1.0, 1 + NUDGE)]
    if text.startswith("top-h"):  # it may keep tokens without mass, and others of equal logits
        survivors = [each.masked_fill(before == -torch.inf, -torch.inf) for each in survivors]
        survivors = [each.sort(-1, descending=True).values for each in survivors]
        found = found.sort(-1, descending=True).values
    low, want, high = survivors
    edge = ((low > -torch.inf) != (high > -torch.inf)).any(-1)
    assert edge.float().mean() < 0.25
    assert torch.equal((found > 0)[~edge], (want.softmax(-1) > 0)[~edge])
    torch.testing.assert_close(found[~edge], want.softmax(-1)[~edge], rtol=1e-9, atol=1e-12)


def softmax(z):
    w = np.exp(z - z.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def entropy(p):
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1, keepdims=True)


def test_top_n_sigma_in_plain_numpy(rows):
    x = rows.double().numpy()
    std = np.array([row[np.isfinite(row)].std(ddof=1) if np.isfinite(row).sum() > 1 else 0.0
                    for row in x])[:, None]  # fmt: skip
    for n, t in ((1.0, 1.0), (2.0, 0.5)):
        slack = 1e-9 * np.abs(np.where(np.isfinite(x), x, 0)).max(-1, keepdims=True)
        bound = x.max(-1, keepdims=True) - n * std
        clear = (np.abs(x - bound) > slack).all(-1)
        clear |= x.max(-1) == np.where(np.isfinite(x), x, np.inf).min(-1)
        assert clear.mean() > 0.9
        want = softmax(np.where(x >= bound, x, -np.inf) / t)
        found = policy_of(f"top-n-sigma({n})", Decoding(t)).probabilities(rows.double())
        np.testing.assert_allclose(found[clear], want[clear], rtol=1e-9, atol=1e-12)


def test_edt_in_plain_numpy(rows):
    x = rows.double().numpy()
    h = np.abs(entropy(softmax(x)))  # no -0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = 1.3 * 0.8 ** (0.7 / h)
        z = np.where(x == x.max(-1, keepdims=True), 0, (x - x.max(-1, keepdims=True)) / t)
    found = policy_of("edt(theta=0.7)", Decoding(1.3)).probabilities(rows.double())
    assert (t < 1e-3).any() and (t > 1).any()
    np.testing.assert_allclose(found, softmax(z), rtol=1e-7, atol=1e-9)


def plain(x, temperature, top_k, top_p):
    """Temperature, top-k, top-p of one row, token by token; the probabilities."""
    order = sorted(range(len(x)), key=lambda v: (-x[v], v))
    finite = [v for v in order if x[v] > -math.inf]
    if top_k:
        finite = [v for v in finite if x[v] >= x[order[min(top_k, len(x)) - 1]]]
    weight = {v: math.exp((x[v] - x[order[0]]) / temperature) for v in finite}
    total, mass, kept = sum(weight.values()), 0.0, []
    for v in finite:
        if kept and top_p < 1 and mass >= top_p - 1e-12:
            break
        kept.append(v)
        mass += weight[v] / total
    p = np.zeros(len(x))
    p[kept] = [weight[v] for v in kept]
    return p / p.sum()


def test_two_stage_in_plain_python(rows):
    """The support of the first, then the base's logits on it at T_train * T_eval."""
    some = rows[::7].double()
    policy = TwoStage(T_train=1.6, top_k=20, top_p=0.8, decoding=Decoding(0.9, 10, 0.95))
    found = policy.probabilities(some).numpy()
    wrong = 0
    for x, p in zip(some.numpy(), found, strict=True):
        inside = np.where(plain(x, 1.6, 20, 0.8) > 0, x, -np.inf)
        want = plain(inside, 1.6 * 0.9, 10, 0.95)
        wrong += not np.allclose(p, want, rtol=1e-9, atol=1e-12)
    assert wrong <= len(found) * 0.002  # a mass within rounding of top-p


def test_two_stage_is_the_ideal_student(rows):
    """Prop. B.2, by the code that predicts students."""
    train, at = Decoding(1.6, 20, 0.8), [Decoding(t, 20, 0.8) for t in (0.3, 1.0, 1.7)]
    stats = position_stats(rows, top_k=64)
    student = draws(ideal_student(Ranks(stats.top_logits), train), at)
    rival = drawn(stats, [TwoStage(T_train=1.6, top_k=20, top_p=0.8, decoding=d) for d in at])
    assert torch.equal(rival.size, student.size)
    torch.testing.assert_close(rival.entropy, student.entropy, rtol=1e-9, atol=1e-9)


def test_labels_choose_the_temperature(rows):
    rows = rows[rows.amax(-1).abs() < 1e38]  # or z / T is infinite
    policy = policy_of("by-label(T_lock=0.3, T_other=0.8)", Decoding(1.4, 20, 0.95))
    stats = position_stats(rows)
    kinds = SupportRule().kinds(stats)
    assert all((kinds == kind).sum() > 100 for kind in (LOCK, FORK, "open"))
    found = policy.probabilities(rows)
    for temperature, here in ((0.3, kinds == LOCK), (1.4, kinds == FORK),
                              (0.8, (kinds != LOCK) & (kinds != FORK))):  # fmt: skip
        want = Decoding(temperature, 20, 0.95).probabilities(rows[here])
        assert torch.equal(found[here], want)
    same = policy_of("by-label(T_lock=1.4, T_other=1.4)", Decoding(1.4, 20, 0.95))
    assert torch.equal(same.probabilities(rows), Decoding(1.4, 20, 0.95).probabilities(rows))


def test_a_lines_start_has_its_own_temperature():
    x = 3 * torch.randn(4, SIZE)
    policy = policy_of("adapt(T_start=1.5)", Decoding(0.5, 20))
    starts = torch.tensor([True, False, False, True])
    ids, left = policy.candidates(x, starts)
    assert torch.equal(ids[0], torch.arange(SIZE))
    assert torch.equal(left[starts], Decoding(1.5, 20).warp(x[starts]))
    assert torch.equal(left[~starts], Decoding(0.5, 20).warp(x[~starts]))
    with pytest.raises(UserError, match="do not say where a line begins"):
        policy.warp(x)
    with pytest.raises(UserError, match="do not say where a line begins"):
        drawn(position_stats(x), [policy])


@pytest.mark.parametrize("text", [text for text in EVERY if text != "adapt"])
@pytest.mark.parametrize("decoding", [Decoding(), Decoding(0.7, 5), Decoding(1.3, 12, 0.9),
                                      Decoding(0.8, 0, 0.9), Decoding(0)], ids=str)  # fmt: skip
def test_what_the_ranks_call_exact_is(rows, text, decoding):
    some = rows[::9]
    some = some[(some.where(some > -torch.inf, 0).abs() < 1e3).all(-1)]
    policy = policy_of(text, decoding)
    p = policy.probabilities(some)
    alive = policy.warp(some) > -torch.inf
    assert alive.any(-1).all() and torch.allclose(p.sum(-1), torch.ones(()).double())
    mass = (some.double().softmax(-1) * alive).sum(-1)
    for top_k in (8, 32, SIZE):
        stats = position_stats(some, top_k=top_k, temperatures=(0.7, 0.8, 1.3))
        found = drawn(stats, [policy])
        exact = found.exact[:, 0]
        assert exact.all() or top_k < SIZE
        assert exact.any()
        differ = found.size[exact, 0] != alive.sum(-1)[exact]
        # Float32 fields, or a quotient rounded to float32, at a rule's edge.
        assert differ.float().mean() < 0.01
        torch.testing.assert_close(
            found.mass[exact, 0][~differ], mass[exact][~differ], rtol=1e-5, atol=1e-5
        )
        want = torch.from_numpy(entropy(p.numpy())[:, 0])[exact][~differ]
        near = torch.isclose(found.entropy[exact, 0][~differ], want, rtol=1e-4, atol=1e-4)
        assert near.float().mean() > 0.999


def test_rows_that_are_not_valid():
    x = torch.zeros(3, 40)
    x[0, 3], x[1, 3], x[2] = torch.nan, torch.inf, -torch.inf
    policies = [policy_of(text, Decoding(1.1, 5)) for text in EVERY if text != "adapt"]
    found = drawn(position_stats(x), policies)
    assert (found.size == 0).all() and not found.exact.any()
    assert found.mass.isnan().all() and found.entropy.isnan().all()


@pytest.mark.parametrize("text", EVERY)
def test_a_policy_is_read_as_it_is_written(text):
    policy = policy_of(text, Decoding(1.1, 5, 0.9))
    assert policy_of(policy.text, policy.decoding) == policy
    assert policy.to_dict()["policy"] == policy.text
    assert policy.to_dict()["temperature"] == 1.1 and not policy.is_greedy
    assert policy_of(None, Decoding(0.3)) == Decoding(0.3)


def test_names_and_what_they_make():
    assert {policy_of(text, Decoding()).name for text in EVERY} == set(NAMES)
    assert policy_of("two-stage", Decoding()) == TwoStage(1.6, 20, 0.8)
    assert policy_of(" min-p ( 0.05 ) ", Decoding()) == Cut(rule=MinP(0.05))
    assert policy_of("adapt", Decoding(0.6)) == AdapT(0.8, decoding=Decoding(0.6))
    assert policy_of("edt(theta=1)", Decoding()) == Edt(theta=1)
    assert policy_of("by-label(T_lock=0, T_other=1)", Decoding()) == ByLabel(T_lock=0, T_other=1)
    assert str(policy_of("min-p(0.1)", Decoding(0.7))) == "min-p(min_p=0.1) at T=0.7"


@pytest.mark.parametrize(("text", "says"), [
    ("nucleus(0.9)", "with a name of two-stage"), ("min-p(0.1", "must be NAME"), ("", "must be"),
    ("min-p", "policy min-p: min_p is missing"), ("min-p(p=0.1)", "unknown parameter 'p'"),
    ("min-p(0.1, 0.2)", "unknown parameter '0.2'"), ("min-p(many)", "must be a number"),
    ("min-p(0.1, min_p=0.2)", "min_p is given twice"), ("min-p(2)", r"a number in \(0, 1\]"),
    ("two-stage(top_p=0)", "policy two-stage: top_p = 0"), ("edt(theta=0)", "above 0"),
    ("two-stage(top_k=1.5)", "must be an integer"), ("by-label(T_lock=1)", "T_other is missing"),
    ("adapt(T_start=-1)", "policy adapt: temperature = -1"), ("top-h(nan)", "must be a number"),
    ("edt(decoding=1)", "unknown parameter 'decoding'"),
])  # fmt: skip
def test_other_texts_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        policy_of(text, Decoding())

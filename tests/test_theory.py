"""The paper's identities on 1,000 random positions, against extended precision and autograd."""

import itertools

import numpy as np
import pytest
import torch

from ssd_probe.analysis import explain, theory
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

CASES, VOCAB, TOLERANCE = 1000, 40, 1e-10
TEMPERATURES = (0.05, 0.7, 1, 1.6, 20)
TRUNCATIONS = ((0, 1.0), (5, 1.0), (1, 1.0), (0, 0.9), (0, 1e-9), (20, 0.8))
DECODINGS = [Decoding(t, k, p) for t, (k, p) in itertools.product(TEMPERATURES, TRUNCATIONS)]
each_decoding = pytest.mark.parametrize("decoding", DECODINGS, ids=str)
each_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)
Long = np.longdouble


def cases(seed: int) -> np.ndarray:
    """Logits [1000, V]: flat to sharp, and every fifth row of each special kind below."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(CASES, VOCAB)) * np.geomspace(0.01, 30, CASES)[:, None]
    logits[1::5] = np.round(logits[1::5])  # ties, also at every edge; all equal where flat
    dead = rng.random((CASES, VOCAB)) < 0.4
    dead[np.arange(CASES), rng.integers(VOCAB, size=CASES)] = False
    logits[2::5][dead[2::5]] = -np.inf  # tokens without mass
    alone = np.arange(VOCAB) != rng.integers(VOCAB, size=CASES)[:, None]
    logits[3::10][alone[3::10]] = -np.inf  # singletons
    logits[8::10][alone[8::10]] -= 60  # locks: all but settled, their tail about 1e-26
    return logits


def students(base: np.ndarray, seed: int) -> np.ndarray:
    """Students [1000, V]: near to far from the base, some without mass on a token."""
    rng = np.random.default_rng(seed)
    spread = np.tile([1e-6, 0.1, 1, 10], CASES // 4)[:, None]
    student = np.where(base > -np.inf, base, -20) + rng.normal(size=base.shape) * spread
    dead = rng.random(base.shape) < 0.02
    dead[:, 0] = False
    student[::3][dead[::3]] = -np.inf
    return student


BASE, STUDENT = cases(0), students(cases(0), 1)


def close(got, expected, relative_above: float = 1.0) -> None:
    """Within 1e-10, absolute up to `relative_above` and relative beyond; inf only where inf."""
    got, expected = np.broadcast_arrays(np.asarray(got, Long), np.asarray(expected, Long))
    assert not np.isnan(got).any() and not np.isnan(expected).any()
    endless = np.isinf(expected)
    assert (got[endless] == expected[endless]).all()
    got, expected = got[~endless], expected[~endless]
    error = np.abs(got - expected) / np.maximum(np.abs(expected), relative_above)
    assert error.max(initial=0) <= TOLERANCE, error.max()


def plain(logits) -> np.ndarray:
    """Softmax in extended precision."""
    logits = np.asarray(logits, Long)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def plog(p: np.ndarray, of: np.ndarray) -> np.ndarray:
    """p log(of), with 0 log 0 = 0, and inf where p has what `of` lacks."""
    with np.errstate(divide="ignore"):
        return np.where(p > 0, p * np.log(np.where(p > 0, of, 1)), 0)


def truncate(p: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Top-k, then top-p, of tempered distributions [N, V] in plain numpy: bool [N, V]."""
    keep = p > 0
    if 0 < decoding.top_k < p.shape[-1]:
        keep &= p >= np.sort(p, axis=-1)[:, -decoding.top_k, None]
    if decoding.top_p < 1:
        left = np.where(keep, p, 0) / np.where(keep, p, 0).sum(-1, keepdims=True)
        order = np.argsort(-left, axis=-1, kind="stable")
        ranked = np.take_along_axis(left, order, -1)
        fits = ranked.cumsum(-1) - ranked < decoding.top_p - 1e-12
        keep &= np.take_along_axis(fits, np.argsort(order, axis=-1), -1)
    return keep


def log_total(log_p: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Logarithm of the sum over a part, in extended precision."""
    seen = np.where(part, np.asarray(log_p, Long), -np.inf)
    largest = seen.max(-1, keepdims=True)
    return np.log(np.exp(seen - largest).sum(-1)) + largest[:, 0]


def random_sets(seed: int) -> np.ndarray:
    """Bool [1000, V]; the first rows are the empty and the full set."""
    rng = np.random.default_rng(seed)
    sets = rng.random((CASES, VOCAB)) < rng.random((CASES, 1))
    sets[:20], sets[20:40] = False, True
    return sets


# Tempering, support, target


@each_temperature
def test_tempering_is_the_power_transform(temperature):
    p = plain(BASE)
    powers = np.where(p > 0, p, 0) ** (Long(1) / Long(temperature))
    close(np.exp(theory.temper(BASE, temperature)), powers / powers.sum(-1, keepdims=True))
    with np.errstate(divide="ignore"):
        close(theory.log_probs(BASE), np.log(p))  # also far down the tail


@each_decoding
def test_support_and_target_are_those_of_the_plain_procedure(decoding):
    tempered = plain(np.asarray(BASE, Long) / Long(decoding.temperature))
    inside = truncate(tempered, decoding)
    assert (theory.support(BASE, decoding) == inside).all()
    weights = np.where(inside, tempered, 0)
    q = theory.target(BASE, decoding)
    close(np.exp(q), weights / weights.sum(-1, keepdims=True))
    assert ((q > -np.inf) == inside).all()


def test_greedy_target_is_the_argmax():
    q = np.exp(theory.target(BASE, Decoding(0)))
    assert (q == np.eye(VOCAB)[BASE.argmax(-1)]).all()


# Mass, entropies, divergences


def test_kept_mass_and_conditionals_split_the_distribution():
    p, inside = plain(BASE), random_sets(2)
    kept, lost = theory.kept_mass(BASE, inside), theory.kept_mass(BASE, ~inside)
    close(kept, np.where(inside, p, 0).sum(-1))
    close(kept + lost, 1)
    pi, u = (np.exp(theory.condition(BASE, part)) for part in (inside, ~inside))
    close(kept[:, None] * pi + lost[:, None] * u, p)
    close(pi.sum(-1), (np.where(inside, p, 0).sum(-1) > 0).astype(float))


def test_a_small_tail_keeps_its_digits():
    logits = np.array([0.0, -60.0, -70.0])
    head = np.array([True, False, False])
    tail = np.exp(Long(-60)) + np.exp(Long(-70))
    close(theory.kept_mass(logits, ~head) / tail, 1)
    close(-theory.log_mass(logits, head) / tail, 1)
    close(theory.log_probs(logits)[0] / -tail, 1)
    assert theory.log_mass([0.0, -2000.0], np.array([False, True])) == -2000.0


def test_entropy_of_simple_distributions():
    close(theory.entropy([0.0, -np.inf]), 0)
    close(theory.entropy(np.zeros((2, 3, 8))), np.full((2, 3), np.log(Long(8))))
    close(theory.entropy(BASE), -plog(plain(BASE), plain(BASE)).sum(-1))


@pytest.mark.parametrize("order", [0.05, 0.5, 0.92, 1, 1.08, 1.5, 20])
def test_renyi_entropy(order):
    p = plain(BASE)
    if order == 1:
        expected = -plog(p, p).sum(-1)
    else:
        powers = np.where(p > 0, p, 0) ** Long(order)
        expected = np.log(powers.sum(-1)) / (1 - Long(order))
    close(theory.renyi_entropy(BASE, order), expected)


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9, 1e-13, -1e-9, -1e-6])
def test_renyi_entropy_is_continuous_at_order_one(step):
    """H_{1+d} = H - d Var(log p) / 2 + O(d^2), with nothing lost to the division by d."""
    p = plain(BASE)
    entropy = -plog(p, p).sum(-1)
    surprise = np.where(p > 0, plog(np.ones_like(p), np.where(p > 0, p, 1)), 0)
    variance = (p * (surprise + entropy[:, None]) ** 2).sum(-1)
    expected = entropy - Long(step) / 2 * variance
    bound = 1e-10 + 1e4 * step**2
    assert np.abs(theory.renyi_entropy(BASE, 1 + step) - expected).max() < bound


@each_decoding
def test_cross_entropy_is_divergence_plus_entropy(decoding):
    log_q, p = theory.target(BASE, decoding), plain(STUDENT)
    lacks = (log_q > -np.inf) & (p == 0)
    cross = np.where(lacks, np.inf, -plog(np.exp(log_q.astype(Long)), p)).sum(-1)
    close(theory.cross_entropy(log_q, STUDENT), cross)
    close(theory.kl_divergence(log_q, STUDENT) + theory.entropy(log_q), cross)
    assert (theory.kl_divergence(log_q, STUDENT) >= 0).all()


def test_divergence_near_zero_keeps_its_digits():
    """KL(p || p + d) = d^2 Var / 2 to leading order: 1e-17 and not rounding."""
    direction = np.random.default_rng(3).normal(size=VOCAB)
    p = plain(BASE[0])
    variance = (p * (direction - (p * direction).sum()) ** 2).sum()
    got = theory.kl_divergence(BASE[0], BASE[0] + 1e-8 * direction)
    assert got / (1e-16 * variance / 2) == pytest.approx(1, rel=1e-5)
    assert theory.kl_divergence(BASE, BASE).max() == 0


# Loss and gradient, eq. 12, 15 and 17


@each_decoding
def test_three_term_loss_is_the_cross_entropy(decoding):
    log_q, p = theory.target(BASE, decoding), plain(STUDENT)
    q, inside = np.exp(log_q.astype(Long)), log_q > -np.inf
    lacks = inside & (p == 0)
    terms = theory.three_term_loss(STUDENT, BASE, decoding)
    close(terms.total, np.where(lacks, np.inf, -plog(q, p)).sum(-1))

    # Each term against its own formula.
    temperature = Long(decoding.temperature)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(inside, p, 0).sum(-1)
        pi = np.nan_to_num(np.where(inside, p, 0) / kept[:, None])
        powers = pi ** (1 / temperature)
        power_sum = powers.sum(-1)
        close(terms.compression, -np.log(kept))
        close(terms.reshaping, np.where(kept > 0, -temperature * np.log(power_sum), 0))
        gaps = plog(q, q) - plog(q, powers / power_sum[:, None])
        alignment = np.where(lacks, np.inf, gaps).sum(-1)
    close(terms.alignment, np.where(kept > 0, temperature * alignment, 0))
    close(terms.constant, -temperature * plog(q, q).sum(-1))
    if decoding.temperature == 1:
        assert (terms.reshaping == 0).all()


def test_loss_is_infinite_where_the_student_lacks_a_token():
    base, everything = np.zeros(3), Decoding(2.0)
    lacks_one = theory.three_term_loss([0, 0, -np.inf], base, everything)
    assert lacks_one.alignment == np.inf and lacks_one.total == np.inf
    outside = theory.three_term_loss([-np.inf, 0.0, 0.0], [1.0, 0.0, 0.0], Decoding(2.0, 1))
    assert outside.compression == np.inf and outside.total == np.inf
    assert outside.reshaping == outside.alignment == 0


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum()


@each_decoding
def test_gradient_is_autograds_and_so_is_each_part(decoding):
    q = torch.from_numpy(np.exp(theory.target(BASE, decoding)))
    inside = torch.from_numpy(theory.support(BASE, decoding))
    alive = np.isfinite(STUDENT).all(-1)  # where the loss is finite whatever the support
    got = theory.logit_gradient(STUDENT, BASE, decoding)

    def gradient(loss) -> np.ndarray:
        logits = torch.from_numpy(STUDENT).requires_grad_()
        return torch.autograd.grad(loss(logits), logits)[0].numpy()

    def cross_entropy(logits):
        return -masked_sum(q * logits.log_softmax(-1), inside)

    def compression(logits):
        head = logits.masked_fill(~inside, -torch.inf)
        return (logits.logsumexp(-1) - head.logsumexp(-1))[alive].sum()

    def reshaping(logits):
        head = logits.masked_fill(~inside, -torch.inf)
        return -masked_sum(q * (logits - head.logsumexp(-1, keepdim=True)), inside)

    def three_terms(logits):
        t = decoding.temperature
        log_pi = logits.masked_fill(~inside, -torch.inf).log_softmax(-1)
        power_sum = (log_pi / t).logsumexp(-1, keepdim=True)
        reshape = -t * power_sum.sum()  # (1-T) H_{1/T}(pi)
        align = -t * masked_sum(q * (log_pi / t - power_sum), inside)  # T KL, less T H(q)
        return compression(logits) + reshape + align

    close(got.total[alive], gradient(cross_entropy)[alive])
    close(got.compression[alive], gradient(compression)[alive])
    close(got.reshaping[alive], gradient(reshaping)[alive])
    close(got.total[alive], gradient(three_terms)[alive])
    close(got.total, plain(STUDENT) - q.numpy())  # and p - q everywhere


def test_sampling_without_change_is_a_fixed_point():
    gradient = theory.logit_gradient(BASE, BASE, Decoding())
    assert np.abs(gradient.total).max() < 1e-15
    assert np.abs(theory.logit_gradient(BASE, BASE, Decoding(1.6)).total).max() > 0.01


# Entropy split (eq. 30) and temperature


def test_entropy_splits_into_gate_head_and_tail():
    p, inside = plain(BASE), random_sets(4)
    split = theory.entropy_split(BASE, inside)
    close(split.total, -plog(p, p).sum(-1))
    kept, lost = (np.where(part, p, 0).sum(-1) for part in (inside, ~inside))
    close(split.gate, -plog(kept, kept) - plog(lost, lost))
    for part, mass, got in ((inside, kept, split.head), (~inside, lost, split.tail)):
        within = np.where(part, p, 0) / np.where(mass > 0, mass, 1)[:, None]
        close(got, -mass * plog(within, within).sum(-1))


@each_temperature
def test_temperature_slopes_are_autograds(temperature):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(CASES, VOCAB))
    fixed = np.where(random_sets(6), BASE, -np.inf)
    fixed = np.where((fixed > -np.inf).any(-1, keepdims=True), fixed, BASE)
    alive = torch.from_numpy(fixed > -np.inf)
    logits = torch.from_numpy(np.where(fixed > -np.inf, fixed, 0))

    gamma = torch.full((CASES, 1), 1 / temperature, dtype=torch.float64, requires_grad=True)
    weights = (logits * gamma).masked_fill(~alive, -torch.inf).softmax(-1)
    mean = (weights * torch.from_numpy(values)).sum()
    expected = torch.autograd.grad(mean, gamma)[0][:, 0].numpy()
    close(theory.mean_slope(fixed, values, temperature), expected)
    ruined = np.where(fixed > -np.inf, values, np.nan)  # what lies at no mass counts for nothing
    close(theory.mean_slope(fixed, ruined, temperature), expected)

    t = torch.full((CASES, 1), temperature, dtype=torch.float64, requires_grad=True)
    log_q = (logits / t).masked_fill(~alive, -torch.inf).log_softmax(-1)
    entropy = -(log_q.exp() * log_q.masked_fill(~alive, 0)).sum()
    close(
        theory.entropy_slope(fixed, temperature),
        torch.autograd.grad(entropy, t)[0][:, 0].numpy(),
    )


@pytest.mark.parametrize("first, second", [*itertools.product(TEMPERATURES, repeat=2)])
def test_tempering_composes(first, second):
    """Lemma B.1."""
    both = theory.temper(theory.temper(BASE, first), second)
    close(both, theory.temper(BASE, explain.effective_temperature(first, second)))
    powers = plain(np.asarray(BASE, Long) / (Long(first) * Long(second)))
    close(np.exp(both), powers)


# The ideal student (Prop. B.2, B.3)


@each_decoding
def test_ideal_student_is_the_base_at_the_effective_temperature(decoding):
    inside = theory.support(BASE, decoding)
    for temperature in TEMPERATURES[::2]:
        at = Long(decoding.temperature) * Long(temperature)
        weights = plain(np.where(inside, np.asarray(BASE, Long) / at, -np.inf))
        close(np.exp(explain.ideal_student(BASE, decoding, temperature)), weights)


@each_decoding
def test_gain_is_the_ratio_of_student_to_base(decoding):
    inside = theory.support(BASE, decoding)
    wanted = inside & random_sets(7)
    wanted |= inside & ~wanted.any(-1, keepdims=True)  # all of S where the draw took none
    for tau in TEMPERATURES[::2]:
        base = np.asarray(BASE, Long) / Long(tau)
        student = np.asarray(BASE, Long) / (Long(tau) * Long(decoding.temperature))
        everywhere, head = log_total(base, base > -np.inf), log_total(base, inside)
        got = explain.gain(BASE, wanted, decoding, tau)
        log_student = log_total(student, wanted) - log_total(student, inside)
        close(got.total, log_student - (log_total(base, wanted) - everywhere))
        close(got.support, everywhere - head)
        assert (got.support >= 0).all()
        if decoding.temperature == 1:
            close(got.reshaping, 0)


# Decode-only policies (B.5) and eq. 40

T, K, P = Decoding(0.6), Decoding(top_k=12), Decoding(top_p=0.85)
ORDERS = [*itertools.permutations([T, K, P]), (T, P, T, K), (K, P, Decoding(20)), (P, P), ()]
ORDERS += [(Decoding(0.05), P), (Decoding(1.6, 20, 0.8), Decoding(0.7, 5, 0.9))]


@pytest.mark.parametrize("steps", ORDERS, ids=lambda steps: " then ".join(map(str, steps)))
def test_any_order_of_steps_is_one_power_on_a_prefix(steps):
    expected = plain(BASE)
    for step in steps:  # naively, each step on what the one before left
        powers = np.where(expected > 0, expected, 0) ** (1 / Long(step.temperature))
        expected = powers / powers.sum(-1, keepdims=True)
        keep = truncate(expected, step)
        expected = np.where(keep, expected, 0)
        expected /= expected.sum(-1, keepdims=True)
    form = explain.normal_form(BASE, steps)
    assert form.temperature == pytest.approx(np.prod([step.temperature for step in steps]))
    policy = form.log_probs(BASE)
    close(np.exp(policy), expected)

    kept = policy > -np.inf  # prefix rigidity, in the ranking by value and then id
    assert (kept == (expected > 0)).all()
    ranking = np.lexsort((np.broadcast_to(np.arange(VOCAB), BASE.shape), -BASE))
    ranked = np.take_along_axis(kept, ranking, -1)
    assert (ranked == (np.arange(VOCAB) < form.size[:, None])).all()
    best = ranking[:, :1]  # power rigidity
    ratio = np.where(kept, policy - np.take_along_axis(policy, best, -1), 0)
    of_base = np.where(kept, BASE - np.take_along_axis(BASE, best, -1), 0)
    close(ratio * form.temperature, of_base)


@each_temperature
@pytest.mark.parametrize("top_k", [0, 1, 5, 20])
def test_rank_mass(temperature, top_k):
    tempered = plain(np.asarray(BASE, Long) / Long(temperature))
    inside = truncate(tempered, Decoding(top_k=top_k))
    ranked = -np.sort(-np.where(inside, tempered, 0), axis=-1)
    expected = ranked.cumsum(-1) / ranked.sum(-1, keepdims=True)
    got = explain.rank_mass(BASE, temperature, top_k)
    assert got.shape == (CASES, VOCAB + 1) and (got[:, 0] == 0).all()
    close(got[:, 1:], expected)


@each_temperature
@pytest.mark.parametrize("top_k", [0, 1, 5, 20])
def test_feasible_top_p_is_what_decoding_does(temperature, top_k):
    """Eq. 40 against the supports themselves, inside the interval, beyond each end, and at 1."""
    part = TEMPERATURES.index(temperature) + 5 * [0, 1, 5, 20].index(top_k)  # of 20, 50 rows each
    rng = np.random.default_rng(part)
    fork, lock = BASE[part::20], BASE[rng.permutation(CASES)[part::20]]
    rows = np.arange(len(fork))
    needs, keeps = rng.integers(1, 8, len(rows)), rng.integers(1, 8, len(rows))
    low, high, possible = explain.feasible_top_p(fork, lock, needs, keeps, temperature, top_k)
    mass = [explain.rank_mass(x, temperature, top_k) for x in (fork, lock)]
    close(low, mass[0][rows, needs - 1])
    close(high, mass[1][rows, keeps])
    assert possible.any() and not possible.all()
    for i in rows:
        pair = np.stack([fork[i], lock[i]])
        tries = [(low[i] + high[i]) / 2, *(end + step for end in (low[i], high[i])
                 for step in (-1e-9, 1e-9)), 1.0, rng.random()]  # fmt: skip
        for top_p in tries:
            edge = min(abs(top_p - low[i]), abs(top_p - high[i])) < 1e-11
            if not 0 < top_p <= 1 or (edge and top_p != 1):
                continue
            kept = theory.support(pair, Decoding(temperature, top_k, float(top_p))).sum(-1)
            served = kept[0] >= needs[i] and kept[1] <= keeps[i]
            assert served == (possible[i] and low[i] < top_p <= high[i]), (i, top_p)


def test_feasibility_broadcasts_over_ranks_and_vocabularies():
    fork, lock = np.zeros(4), np.log([0.9, 0.06, 0.04])
    low, high, possible = explain.feasible_top_p(fork, lock, [1, 2, 4, 5], [[1], [3]], 1.0)
    close(low, [[0, 0.25, 0.75, 1]] * 2)
    close(high, [[0.9] * 4, [1] * 4])
    assert possible.tolist() == [[True, True, True, False]] * 2
    assert not explain.feasible_top_p(fork * [0, 1, 1, 1] - [0, 1, 2, 3], lock, 3, 1, 1.0, 2)[2]


# Shapes and errors


def test_any_leading_shape_and_floats_of_any_width():
    cube, flat = BASE.reshape(10, 100, VOCAB), theory.three_term_loss(STUDENT, BASE, DECODINGS[5])
    terms = theory.three_term_loss(STUDENT.reshape(cube.shape), cube, DECODINGS[5])
    assert (terms.total == flat.total.reshape(10, 100)).all()
    single = theory.three_term_loss(STUDENT[4], BASE[4], DECODINGS[5])
    assert single.total == flat.total[4]
    assert theory.entropy(BASE.astype(np.float32)).dtype == np.float64
    assert theory.log_mass(BASE, np.ones(VOCAB, bool)).tolist() == [0] * CASES
    close(theory.log_probs(BASE + 1e3), theory.log_probs(BASE), 1e2)


@pytest.mark.parametrize("call, message", [
    (lambda: theory.entropy([0, np.nan]), "finite or -inf"),
    (lambda: theory.entropy([0, np.inf]), "finite or -inf"),
    (lambda: theory.entropy([-np.inf, -np.inf]), "finite or -inf"),
    (lambda: theory.entropy(3.0), "vocabulary"),
    (lambda: theory.entropy([]), "vocabulary"),
    (lambda: theory.temper([0, 1], 0), "temperature"),
    (lambda: theory.temper([0, 1], np.inf), "temperature"),
    (lambda: theory.renyi_entropy([0, 1], 0), "order"),
    (lambda: theory.kept_mass([0, 1], [0, 1]), "bool mask"),
    (lambda: theory.three_term_loss([0, 1], [0, 1], Decoding(0)), "greedy"),
    (lambda: explain.effective_temperature(1, -1), "temperature"),
    (lambda: explain.gain([0, 1], [True, False], Decoding(0), 1), "greedy"),
    (lambda: explain.gain([0, 1], [True, False], Decoding(top_k=1), 1), "inside the training"),
    (lambda: explain.gain([0, 1], [False, False], Decoding(), 1), "at least one"),
    (lambda: explain.normal_form([0, 1], [Decoding(0)]), "greedy"),
    (lambda: explain.normal_form([0, 1], [Decoding(1e-3)] * 2), "greedy"),
    (lambda: explain.rank_mass([0, 1], 0), "greedy"),
    (lambda: explain.feasible_top_p([0, 1], [0, 1], 0, 1, 1.0), "at least 1"),
])  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()

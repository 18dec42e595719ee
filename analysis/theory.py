"""The paper's theory at one position (appendix B): tempering, support, target, loss, gradient.

Every function takes logits or log-probabilities [..., V] (only differences between them count, as
they are normalised on entry; -inf is a token of no mass), computes in float64 and returns nats.
Distributions come back as log-probabilities, so that a tail of 1e-400 is still there; 0 log 0 = 0.
The one definition of a support is `Decoding`'s. What the theory explains is in `explain`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def log_probs(logits: ArrayLike) -> Floats:
    """Normalised log-probabilities [..., V] in float64: z - logsumexp(z), exact beside the maximum.

    Raises UserError for a NaN, a +inf, a row without a finite entry, or no vocabulary axis.
    """
    values = np.asarray(logits, np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise UserError("logits need a vocabulary as their last axis")
    if not (values < np.inf).all() or not np.isfinite(values.max(-1)).all():
        raise UserError("logits must be finite or -inf, with at least one finite in each row")
    return _normalised(values)


def temper(logits: ArrayLike, temperature: float) -> Floats:
    """Temper_T[p]: log-probabilities [..., V].

        Temper_T[p](v) = p(v)^(1/T) / sum_w p(w)^(1/T)

    Tokens of no mass stay so. Errors: UserError unless T is finite and > 0 (greedy, T = 0, is a
    support and no tempering: see `Decoding`), and as `log_probs`. Source: section 3, appendix B.
    """
    require_temperature(temperature)
    return _normalised(log_probs(logits) / temperature)


def support(logits: ArrayLike, decoding: Decoding) -> Mask:
    """S = TopP(TopK(Temper_T[p], k), top_p), as `Decoding` defines it: bool [..., V].

    Without truncation S is every token with mass. Errors: as `log_probs`.
    Source: sections 1 and 3, appendix A.
    """
    import torch

    return decoding.warp(torch.from_numpy(log_probs(logits))).numpy() > -np.inf


def target(logits: ArrayLike, decoding: Decoding) -> Floats:
    """q = Temper_T[p] restricted to S and renormalised: log-probabilities [..., V], -inf outside S.

    What sampling under `decoding` draws from: the student's target when logits and decoding are the
    base's and the training ones. Greedy gives all mass to the argmax. Errors: as `log_probs`.
    Source: section 3.
    """
    log_p = log_probs(logits)
    inside = support(log_p, decoding)
    return _restrict(log_p if decoding.is_greedy else temper(log_p, decoding.temperature), inside)


def condition(logits: ArrayLike, tokens: ArrayLike) -> Floats:
    """p(.|A): log-probabilities [..., V] with -inf outside A; tokens: A as bool, [..., V] or [V].

        p(v|A) = p(v) / p(A)

    pi = p(.|S) is `condition(p, S)` and u = p(.|not S) is `condition(p, ~S)`. A row with
    p(A) = 0, where it is not defined, is -inf throughout. Errors: as `log_probs`.
    Source: section 3.
    """
    return _restrict(log_probs(logits), as_mask(tokens))


def log_mass(logits: ArrayLike, tokens: ArrayLike) -> Floats:
    """log p(A), nats [...]; tokens: A as bool, [..., V] or [V]. -inf where A has no mass.

    Above one half it is log1p(-p(not A)), with p(not A) summed directly: for p(not A) = 1e-30 it
    is -1e-30 and not 0. Errors: as `log_probs`.
    """
    log_p, inside = np.broadcast_arrays(log_probs(logits), as_mask(tokens))
    mass = _log_total(log_p, inside)
    rest = _log_total(log_p, ~inside)
    return np.where(rest < -math.log(2), np.log1p(-np.exp(np.minimum(rest, -0.5))), mass)


def kept_mass(logits: ArrayLike, tokens: ArrayLike) -> Floats:
    """K = KeptMass = p(S), fraction [...]; tokens: S as bool, [..., V] or [V].

    1 - K is `kept_mass(p, ~S)`, summed directly. Errors: as `log_probs`. Source: section 3.
    """
    return np.exp(log_mass(logits, tokens))


def entropy(logits: ArrayLike) -> Floats:
    """H(p) = -sum_v p(v) log p(v), nats [...]. Errors: as `log_probs`."""
    return _entropy(log_probs(logits))


def renyi_entropy(logits: ArrayLike, order: float) -> Floats:
    """Renyi entropy of a finite order > 0, nats [...]; order 1 is the Shannon entropy.

        H_a(p) = log(sum_v p(v)^a) / (1 - a)

    Within 0.1 of order 1 the logarithm is log1p(sum_v p(v)^a - p(v)), term by term, so that the
    division by 1 - a loses nothing. Errors: UserError for another order, and as `log_probs`.
    Source: section 3, the reshaping term of eq. 12, where the order is 1/T.
    """
    if not 0 < order < math.inf:
        raise UserError(f"order = {order!r}: must be a finite number > 0")
    return _renyi(log_probs(logits), order)


def cross_entropy(q: ArrayLike, p: ArrayLike) -> Floats:
    """CE(q, p) = -sum_v q(v) log p(v), nats [...]; inf where q has a token that p lacks.

    Errors: as `log_probs`. Source: eq. 12.
    """
    log_q, log_p = np.broadcast_arrays(log_probs(q), log_probs(p))
    lacks = (log_q > -np.inf) & (log_p == -np.inf)  # inf, also where exp(log_q) is 0 in float64
    known = np.where(log_p > -np.inf, log_p, 0)
    return -np.where(lacks, -np.inf, np.exp(log_q) * known).sum(-1)


def kl_divergence(q: ArrayLike, p: ArrayLike) -> Floats:
    """KL(q || p) = sum_v q(v) log(q(v) / p(v)), nats [...]; inf where q has a token that p lacks.

    Summed as q log(q/p) - q + p, of which no term is negative: near p = q nothing cancels.
    Errors: as `log_probs`. Source: section 3, the alignment term of eq. 12.
    """
    return _kl(log_probs(q), log_probs(p))


class LossTerms(NamedTuple):
    """The terms of the loss, nats [...], which add up to the cross-entropy (`total`)."""

    compression: Floats  # -log K: mass has to move onto S
    reshaping: Floats  # (1-T) H_{1/T}(pi): > 0 for T < 1, < 0 for T > 1
    alignment: Floats  # T KL(q || Temper_T[pi])
    constant: Floats  # T H(q), which training cannot change

    @property
    def total(self) -> Floats:
        return self.compression + self.reshaping + self.alignment + self.constant


def three_term_loss(student: ArrayLike, base: ArrayLike, decoding: Decoding) -> LossTerms:
    """The student's loss on the base's samples, term by term; student, base: [..., V].

        CE(q, p) = -log K + (1-T) H_{1/T}(pi) + T KL(q || Temper_T[pi]) + T H(q)

    with S and q the base's under `decoding`, T its temperature, p the student, K = p(S) and
    pi = p(.|S). The reshaping term equals -T log sum_v pi(v)^(1/T). Left open by the paper: where
    the student lacks a token of q the alignment is inf; where K = 0, so that pi is not defined, the
    compression is inf and reshaping and alignment count as 0. The total is the cross-entropy, inf,
    in both. Errors: UserError for greedy decoding, and as `log_probs`. Source: eq. 12 and 15.
    """
    temperature = decoding.temperature
    _require_not_greedy(decoding)
    log_p, log_q = np.broadcast_arrays(log_probs(student), target(base, decoding))
    inside = log_q > -np.inf
    log_pi = _restrict(log_p, inside)
    kept = log_mass(log_p, inside)
    alignment = temperature * _kl(log_q, _normalised(log_pi / temperature))
    return LossTerms(
        compression=-kept,
        reshaping=(1 - temperature) * _renyi(log_pi, 1 / temperature),
        alignment=np.where(kept > -np.inf, alignment, 0),
        constant=temperature * _entropy(log_q),
    )


class GradientSplit(NamedTuple):
    """The parts of the loss's gradient in the student's logits, [..., V], which add up to p - q."""

    compression: Floats  # of -log K:      -(1-K) pi(v) inside S, p(v) outside
    reshaping: Floats  # of CE(q, pi):   pi(v) - q(v) inside S, 0 outside

    @property
    def total(self) -> Floats:
        return self.compression + self.reshaping


def logit_gradient(student: ArrayLike, base: ArrayLike, decoding: Decoding) -> GradientSplit:
    """d CE(q, p) / d logit(v), split by what it comes from; student, base: [..., V].

        p(v) - q(v) = -(1-K) pi(v) + (pi(v) - q(v))   inside S
                    =  p(v)                           outside S

    1 - K is summed outside S. At T = 1 without truncation q is the base: the gradient at the start
    is zero, a fixed point. Where K = 0 (pi not defined) pi counts as 0; the total is right.
    Errors: as `log_probs`. Source: eq. 17.
    """
    log_p, log_q = np.broadcast_arrays(log_probs(student), target(base, decoding))
    inside = log_q > -np.inf
    pi = np.exp(_restrict(log_p, inside))
    lost = np.exp(log_mass(log_p, ~inside))[..., None]  # 1 - K
    return GradientSplit(
        compression=np.where(inside, -lost * pi, np.exp(log_p)),
        reshaping=np.where(inside, pi - np.exp(log_q), 0),
    )


class EntropySplit(NamedTuple):
    """The parts of an entropy, nats [...], which add up to it (`total`)."""

    gate: Floats  # h2(K): inside or outside
    head: Floats  # K H(pi)
    tail: Floats  # (1-K) H(u)

    @property
    def total(self) -> Floats:
        return self.gate + self.head + self.tail


def entropy_split(logits: ArrayLike, tokens: ArrayLike) -> EntropySplit:
    """The entropy as gate, head and tail; tokens: S as bool, [..., V] or [V].

        H(p) = h2(K) + K H(pi) + (1-K) H(u),   h2(K) = -K log K - (1-K) log(1-K)

    Any set will do, not only a support. A side of no mass contributes 0. The entropies inside,
    H(pi) and H(u), are `head / K` and `tail / (1-K)`. Errors: as `log_probs`. Source: eq. 30.
    """
    log_p, inside = np.broadcast_arrays(log_probs(logits), as_mask(tokens))
    kept, lost = log_mass(log_p, inside), log_mass(log_p, ~inside)
    gate = sum(np.exp(x) * -np.where(x > -np.inf, x, 0) for x in (kept, lost))
    return EntropySplit(
        gate=np.asarray(gate),
        head=np.exp(kept) * _entropy(_restrict(log_p, inside)),
        tail=np.exp(lost) * _entropy(_restrict(log_p, ~inside)),
    )


def mean_slope(logits: ArrayLike, values: ArrayLike, temperature: float) -> Floats:
    """How the tempered mean of f moves with gamma = 1/T: [...], in units of f a nat.

        d/dgamma E[f] = Cov(f, log p),   both under Temper_T[p]

    values: f, [..., V] or [V]; at tokens of no mass it counts for nothing. In T it is
    -Cov(f, log p) / T^2. On a fixed support S pass `condition(p, S)`; a support that moves with T
    is not what this differentiates. Errors: as `temper`. Source: section 3, appendix B.
    """
    log_p = log_probs(logits)
    weights = np.exp(temper(log_p, temperature))  # [..., V]
    return (weights * _centred(values, weights) * _centred(log_p, weights)).sum(-1)


def entropy_slope(logits: ArrayLike, temperature: float) -> Floats:
    """dH/dT of the tempered distribution, nats a unit of temperature [...].

        dH/dT = Var(log p) / T^3,   the variance under Temper_T[p]

    On a fixed support S pass `condition(p, S)`. Errors: as `temper`. Source: section 3, appendix B.
    """
    log_p = log_probs(logits)
    weights = np.exp(temper(log_p, temperature))
    # Divided before squaring: a small T does not overflow.
    return (weights * (_centred(log_p, weights) / temperature) ** 2).sum(-1) / temperature


def require_temperature(temperature: float) -> None:
    """UserError unless a temperature tempers: finite and above 0."""
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature = {temperature!r}: must be a finite number > 0")


def _require_not_greedy(decoding: Decoding) -> None:
    if decoding.is_greedy:
        raise UserError("greedy decoding has no Temper_T: the theory needs a temperature above 0")


def as_mask(tokens: ArrayLike) -> Mask:
    """A set of tokens as the array it is. UserError unless bool: ids would be taken for truths."""
    mask = np.asarray(tokens)
    if mask.dtype != np.bool_:
        raise UserError("tokens must be a bool mask over the vocabulary")
    return mask


# Below, log_p is normalised, except that a row may be -inf throughout (a conditional of no mass).


def _normalised(values: Floats) -> Floats:
    """Less the maximum first, so that the sum of all else keeps its digits beside 1."""
    largest = values.max(-1, keepdims=True)
    below = values - np.where(largest > -np.inf, largest, 0)
    total = logsumexp(below, axis=-1, keepdims=True)
    return below - np.where(total > -np.inf, total, 0)


def _restrict(log_p: Floats, inside: Mask) -> Floats:
    return _normalised(np.where(inside, log_p, -np.inf))


def _log_total(log_p: Floats, inside: Mask) -> Floats:
    return np.asarray(logsumexp(np.where(inside, log_p, -np.inf), axis=-1))


def _entropy(log_p: Floats) -> Floats:
    return -(np.exp(log_p) * np.where(log_p > -np.inf, log_p, 0)).sum(-1)


def _renyi(log_p: Floats, order: float) -> Floats:
    if order == 1:
        return _entropy(log_p)
    if abs(order - 1) < 0.1:
        seen = np.where(log_p > -700, log_p, 0)  # below that both powers are 0 beside 1
        powers = np.exp(seen) * np.expm1((order - 1) * seen)
        return np.log1p(powers.sum(-1)) / (1 - order)
    total = np.asarray(logsumexp(order * log_p, axis=-1))
    return np.where(total > -np.inf, total, 0) / (1 - order)


def _kl(log_q: Floats, log_p: Floats) -> Floats:
    alive, known = log_q > -np.inf, log_p > -np.inf
    gap = np.where(alive & known, log_q, 0) - np.where(alive & known, log_p, 0)
    q, p = np.exp(log_q), np.exp(log_p)
    near = np.where(np.abs(gap) < 1, gap, 0)
    terms = np.where(near == gap, q * (near + np.expm1(-near)), q * gap - q + p)
    # Where p lacks the token it is inf, also where q is 0 in float64.
    return np.where(alive, np.where(known, terms, np.inf), p).sum(-1)


def _centred(values: ArrayLike, weights: Floats) -> Floats:
    """Less their weighted mean; 0 at tokens of no weight, whatever is there."""
    seen = np.where(weights > 0, np.asarray(values, np.float64), 0)
    mean = (weights * seen).sum(-1, keepdims=True)
    return np.where(weights > 0, seen - mean, 0)

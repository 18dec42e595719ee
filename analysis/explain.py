"""What the theory says of self-distillation against decoding alone (appendix B), at one position.

The ideal student and its gain over the base; the normal form of every decode-only policy, and when
one of them can serve a fork and a lock at once. Conventions as in `theory`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_probe.analysis.theory import (
    Floats,
    Mask,
    as_mask,
    condition,
    log_mass,
    log_probs,
    require_temperature,
    support,
    target,
    temper,
)
from ssd_probe.decoding import GREEDY_BELOW, Decoding
from ssd_probe.errors import UserError

_BELOW_ONE = math.nextafter(1.0, 0.0)


def effective_temperature(train: float, evaluation: float) -> float:
    """T_eff = T_train * T_eval: tempering composes, `temper(temper(p, T1), T2) = temper(p, T1*T2)`.

    Errors: UserError unless both are finite and > 0. Source: Lemma B.1, Prop. B.2.
    """
    require_temperature(train)
    require_temperature(evaluation)
    return train * evaluation


def ideal_student(base: ArrayLike, train: Decoding, temperature: float = 1.0) -> Floats:
    """The student that fits its target exactly (p = q), decoded at T_eval: log-probs [..., V].

        student_T_eval = Temper_{T_eval}[q] = Temper_{T_eff}[base](. | S)

    base: [..., V]; train: the decoding of its samples, which fixes S; temperature: T_eval, with no
    truncation of its own (`target(student, evaluation)` adds one). Errors: UserError for a T_eval
    that is not finite and > 0, and as `log_probs`. Source: Prop. B.2.
    """
    return temper(target(base, train), temperature)


class Gain(NamedTuple):
    """The factors of a gain as logarithms, nats [...], which add up (`total`)."""

    support: Floats  # -log m(tau) >= 0: the tail's mass came back to S
    reshaping: Floats  # log pi_{1/(T tau)}(A) - log pi_{1/tau}(A): flattened (T > 1) inside S

    @property
    def total(self) -> Floats:
        return self.support + self.reshaping


def gain(base: ArrayLike, tokens: ArrayLike, train: Decoding, temperature: float) -> Gain:
    """How much likelier the ideal student is to draw from A than the base, both at tau.

        student_tau(A) / base_tau(A) = [1 / m(tau)] * [pi_{1/(T tau)}(A) / pi_{1/tau}(A)]

    in logarithms, as a ratio may overflow. base: [..., V]; tokens: A as bool, [..., V] or [V], a
    part of S; train: T and S; temperature: tau. m(tau) = Temper_tau[base](S), and pi_g is base^g on
    S, renormalised. Errors: UserError for greedy training, where A leaves S or is empty (the
    identity is stated for A inside S), and as `temper`. Source: Prop. B.3.
    """
    require_temperature(temperature)
    if train.is_greedy:
        raise UserError("greedy training has no Temper_T: a gain needs a temperature above 0")
    log_p = log_probs(base)
    inside = support(log_p, train)
    wanted = as_mask(tokens)
    if (wanted & ~inside).any() or not (wanted & inside).any(-1).all():
        raise UserError("a gain needs tokens inside the training support, at least one in each row")
    head = condition(log_p, inside)
    reshaped = temper(head, effective_temperature(train.temperature, temperature))
    return Gain(
        support=-log_mass(temper(log_p, temperature), inside),
        reshaping=log_mass(reshaped, wanted) - log_mass(temper(head, temperature), wanted),
    )


class NormalForm(NamedTuple):
    """A decode-only policy as one power transform on a prefix of the base's ranking."""

    temperature: float  # the one power is 1/temperature
    size: NDArray[np.int64]  # [...], tokens in the prefix

    def log_probs(self, base: ArrayLike) -> Floats:
        """The policy itself: Temper_T[base] on the first `size` ranks, log-probs [..., V]."""
        return condition(temper(base, self.temperature), prefix(base, self.size))


def normal_form(base: ArrayLike, steps: Sequence[Decoding]) -> NormalForm:
    """The normal form of truncations and temperatures applied one after the other, in any order.

        policy = Temper_T[base](. | first m ranks),   T = product of the temperatures

    base: [..., V]; steps: each a `Decoding`, applied to what the one before left, so that
    [Decoding(1, 20, 0.8), Decoding(0.7)] truncates first. m depends on base and order, T on
    neither. Hence *prefix rigidity* (no token is kept without all that rank above it) and *power
    rigidity* (every log-ratio of two kept tokens is 1/T times the base's). Left open by the paper:
    ties, which rank by id, lowest first, as in `Decoding`.
    Errors: UserError for a greedy step or product, and as `log_probs`. Source: appendix B.5.
    """
    log_p = log_probs(base)
    left, temperature = log_p, 1.0
    for step in steps:
        temperature *= step.temperature
        if step.is_greedy or temperature < GREEDY_BELOW:
            raise UserError("greedy decoding has no normal form: it needs temperatures above 0")
        # On untempered logits with the temperature so far: rounding cannot make ties.
        kept = support(left, Decoding(temperature, step.top_k, step.top_p))
        left = np.where(kept, left, -np.inf)
    return NormalForm(temperature, (left > -np.inf).sum(-1))


def prefix(base: ArrayLike, size: ArrayLike) -> Mask:
    """The first `size` ranks by (probability descending, id ascending): bool [..., V].

    base: [..., V]; size: integers, [...] or one for all. Errors: as `log_probs`.
    """
    log_p = log_probs(base)
    order = np.argsort(-log_p, axis=-1, kind="stable")
    ranks = np.argsort(order, axis=-1)  # [..., V], 0 for the likeliest
    return ranks < np.asarray(size)[..., None]


def rank_mass(base: ArrayLike, temperature: float, top_k: int = 0) -> Floats:
    """C_m: mass of the first m ranks of the tempered, top-k restricted distribution.

        C_m = sum of the m largest of Temper_T[base](. | TopK)

    base: [..., V]; top_k: 0 for none. Returns [..., V + 1], C_0 = 0 to C_V = 1. Ties at the k-th
    stay, as in `Decoding`. Errors: UserError for greedy, and as `log_probs`. Source: eq. 40.
    """
    return _rank_mass(base, temperature, top_k)[0]


class Feasibility(NamedTuple):
    """The top-p that serve fork and lock at once: `low < top_p <= high`, where `possible`."""

    low: Floats  # [...], C_{r_F - 1} of the fork
    high: Floats  # [...], C_{r_L} of the lock
    possible: Mask  # [...]


def feasible_top_p(
    fork: ArrayLike,
    lock: ArrayLike,
    fork_needs: ArrayLike,
    lock_keeps: ArrayLike,
    temperature: float,
    top_k: int = 0,
) -> Feasibility:
    """Which top-p, at this T and top-k, leaves a fork its r_F ranks and a lock no more than r_L.

        r_F <= k  and  C_{r_F - 1}(fork) < top_p <= C_{r_L}(lock)

    fork, lock: [..., V] each, V may differ; fork_needs (r_F) and lock_keeps (r_L): integers >= 1,
    [...] or one for all. All broadcast. Left open by the paper, which says "only if":
    - it is "if" too: rank r stays when the mass above it falls short of top_p, so r_F stays at the
      fork below C_{r_F - 1} and r_L + 1 goes at the lock from C_{r_L} on;
    - ties at the k-th rank stay, so r_F <= k is read as r_F <= the fork's survivors of top-k, which
      also says r_F <= V without top-k;
    - top_p = 1 is off and keeps every survivor: a C that only rounds to 1 is put just below it.
    `Decoding` takes a mass within 1e-12 of top_p as reaching it, so it may differ that near an end.
    Errors: UserError for ranks below 1, greedy, and as `log_probs`. Source: eq. 40.
    """
    needs, keeps = np.asarray(fork_needs), np.asarray(lock_keeps)
    if (needs < 1).any() or (keeps < 1).any():
        raise UserError("fork_needs and lock_keeps are numbers of ranks: at least 1 each")
    fork_mass, fork_size = _rank_mass(fork, temperature, top_k)
    lock_mass, lock_size = _rank_mass(lock, temperature, top_k)
    low = _mass_at(fork_mass, fork_size, needs - 1)
    high = _mass_at(lock_mass, lock_size, keeps)
    return Feasibility(low, high, (needs <= fork_size) & (low < high))


def _rank_mass(base: ArrayLike, temperature: float, top_k: int) -> tuple[Floats, NDArray]:
    """C [..., V + 1] and how many ranks survive top-k [...]."""
    decoding = Decoding(temperature, top_k)
    if decoding.is_greedy:
        raise UserError("greedy decoding keeps one rank everywhere: it needs a temperature above 0")
    log_q = target(base, decoding)
    ranked = np.exp(-np.sort(-log_q, axis=-1))
    mass = np.minimum(np.cumsum(ranked, axis=-1), 1)
    return np.insert(mass, 0, 0, axis=-1), (log_q > -np.inf).sum(-1)


def _mass_at(mass: Floats, size: NDArray, rank: NDArray) -> Floats:
    """C at a rank [...]: 1 exactly from the last survivor on, and below 1 before it."""
    shape = np.broadcast_shapes(size.shape, rank.shape)
    size, rank = np.broadcast_to(size, shape), np.broadcast_to(rank, shape)
    at = np.minimum(rank, mass.shape[-1] - 1)[..., None]
    found = np.take_along_axis(np.broadcast_to(mass, (*shape, mass.shape[-1])), at, -1)[..., 0]
    return np.where(rank >= size, 1.0, np.minimum(found, _BELOW_ONE))

"""Each position in the base and in the tuned model: what changed, and how far training got.

Everything is measured against one set of tokens, the support S that the *base* keeps under the
training decoding: the tail is the mass outside S, the head is the distribution inside S, and the
target q of training is the base tempered on S. Only what the probes keep is needed: S lies within
the base's K ranks.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import entr, xlog1py

from ssd_probe.analysis.frames import require_columns, require_exact, stacked, stats_of
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats

STATISTICS = (
    *("entropy", "tail_mass", "kept_mass", "head_entropy", "branching", "top1_agreement"),
    *("gate_part", "head_part", "tail_part"),
    *("compression", "reshaping", "alignment", "target_kl"),
)
PAIR_STATISTICS = ("kl", "js", "tv")  # of one folder that holds both models (`probe --pair`)
_PAIR_COLUMNS = {"kl": "kl_base_other", "js": "js", "tv": "tv"}
_KEYS = ["sample_id", "position", "token_id"]
_SIDES = ("base", "tuned")
_ROWS = 4096  # measured at once

Floats = NDArray[np.float64]


def position_statistics(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    decoding: Decoding,
    stats: tuple[PositionStats, PositionStats] | None = None,
) -> pd.DataFrame:
    """The statistics of each position in both models: `base_<name>` and `tuned_<name>` columns.

    With S the base's support under `decoding`, T its temperature, q the target, p the model in
    hand, K = p(S), pi = p(.|S), u = p(.|not S), and nats throughout:

        entropy         H(p), the whole distribution at T=1
        tail_mass       1 - K, summed from the tail up so that 1e-9 stays 1e-9
        kept_mass       K (eq. 12's KeptMass)
        head_entropy    H(pi)
        branching       exp(H) of the model's own tempered support
        top1_agreement  1 where the top token is the base's
        gate_part       h2(K); head_part = K H(pi); tail_part = (1-K) H(u): they add up to H(p)
        compression     -log K; reshaping = (1-T) H_{1/T}(pi); alignment = T KL(q || Temper_T[pi]):
                        the three terms of the training loss, which lacks the constant T H(q)
        target_kl       KL(q || p) = the three terms + (T-1) H(q): 0 where training is at its target

    Also problem_id and `missing`, the tokens of S that the tuned model's K ranks lack. The tuned
    tail counts them, its head has them as 0, and the loss terms give each the most that it can
    have, so those are then lower bounds. A pair's frame (of `Probe.load(PAIR).frame`) knows the
    tuned logit of each token of S: nothing is missing, and kl = KL(base || tuned), js and tv over
    the whole vocabulary are there too, as `tuned_<name>` beside a base of 0.
    Greedy training has no loss terms: they are NaN. stats: those of the two frames, if they are at
    hand.
    Raises UserError when the rows do not line up. Source: appendix B, eq. 12, 15 and 30.
    """
    require_same_rows(base, tuned)
    own, tuned_stats = stats or (stats_of(base), stats_of(tuned))
    require_exact(own, decoding)
    require_exact(tuned_stats, decoding)
    left = own.truncated([decoding]), tuned_stats.truncated([decoding])
    ranks = np.arange(max(1, int(left[0].size.max())))
    support = ranks < left[0].size.numpy()  # [N, S]: S is a prefix of ranks
    probs = own.top_probs().numpy(), tuned_stats.top_probs().numpy()
    at_base_top = stacked(base, "other_at_base_top") if "other_at_base_top" in base else None
    blocks = []
    for start in range(0, len(base), _ROWS):  # small enough to stay in the processor's cache
        part = slice(start, start + _ROWS)
        blocks.append(
            _measured(
                (own.rows(part), tuned_stats.rows(part)),
                support[part],
                (probs[0][part], probs[1][part]),
                None if at_base_top is None else at_base_top[part],
                decoding,
            )
        )
    columns = {"problem_id": base["problem_id"].to_numpy()}
    columns |= {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    for side, entropy in zip(_SIDES, (one.entropy for one in left), strict=True):
        columns[f"{side}_branching"] = np.exp(entropy[:, 0].numpy())
    for name, column in _PAIR_COLUMNS.items():
        if column in base:
            columns |= {f"base_{name}": np.zeros(len(base)), f"tuned_{name}": base[column]}
    return pd.DataFrame({n: np.asarray(values) for n, values in columns.items()}, base.index)


def _measured(
    stats: tuple[PositionStats, PositionStats],
    support: NDArray,
    probs: tuple[Floats, Floats],
    at_base_top: NDArray | None,
    decoding: Decoding,
) -> dict[str, NDArray]:
    """Some rows of `position_statistics`, of both sides; `probs`, of the ranks, are used up."""
    own, tuned = stats
    ids = own.top_ids.numpy()[:, : support.shape[1]]
    masses = (
        _base_masses(own, support, probs[0]),
        _tuned_masses(tuned, support, ids, at_base_top, probs[1]),
    )
    log_q = _target(masses[0][0], decoding)
    columns: dict[str, NDArray] = {}
    for side, of, (head, tail) in zip(_SIDES, stats, masses, strict=True):
        measured = _split(of.entropy.double().numpy(), head, tail)
        measured["top1_agreement"] = (of.top_ids[:, 0] == own.top_ids[:, 0]).double().numpy()
        measured |= _loss_terms(head, tail, log_q, _at_most(of, tail), decoding)
        columns |= {f"{side}_{name}": values for name, values in measured.items()}
    columns["missing"] = (support & (masses[1][0] == -np.inf)).sum(1)
    return columns


def require_same_rows(base: pd.DataFrame, tuned: pd.DataFrame) -> None:
    """UserError unless both probes hold the same tokens at the same places, row by row."""
    require_columns(base, ["problem_id", *_KEYS], "the base probe")
    require_columns(tuned, _KEYS, "the tuned probe")
    if len(base) != len(tuned):
        raise UserError(f"the probes differ: {len(base)} base rows, {len(tuned)} tuned rows")
    for name in _KEYS:
        unequal = np.flatnonzero(base[name].to_numpy() != tuned[name].to_numpy())
        if len(unequal):
            raise UserError(f"the probes differ in {name} from row {unequal[0]}: probe both alike")


def _log_probs(stats: PositionStats, ranks: int) -> Floats:
    """log p of the leading ranks, [N, ranks]."""
    return (stats.top_logits[:, :ranks].double() - stats.logsumexp[:, None]).numpy()


def _base_masses(stats: PositionStats, support: NDArray, outside: Floats) -> tuple[Floats, Floats]:
    """log p of the tokens of S, -inf beside it [N, S], and p(not S) [N].

    outside: the ranks' probabilities, in which those of S become 0.
    """
    outside[:, : support.shape[1]][support] = 0
    log_p = _log_probs(stats, support.shape[1])
    return np.where(support, log_p, -np.inf), outside.sum(1) + _beyond(stats)


def _tuned_masses(
    stats: PositionStats,
    support: NDArray,
    ids: NDArray,
    at_base_top: NDArray | None,
    outside: Floats,
) -> tuple[Floats, Floats]:
    """The same of the tuned model: log p of the base's tokens of S, and p(not S)."""
    places = _places(np.where(support, ids, -1), stats.top_ids.numpy())
    found = places >= 0
    logits = np.take_along_axis(stats.top_logits.numpy(), places.clip(0), 1).astype(float)
    head = np.where(found, logits - stats.logsumexp.numpy()[:, None], -np.inf)
    rows, columns = np.nonzero(found)
    outside[rows, places[rows, columns]] = 0
    tail = outside.sum(1) + _beyond(stats)
    if at_base_top is not None:
        logits = at_base_top[:, : support.shape[1]].astype(float)
        exact = np.where(support, logits - stats.logsumexp.numpy()[:, None], -np.inf)
        tail = np.maximum(tail - np.where(found, 0, np.exp(exact)).sum(1), 0)
        head = np.where(found, head, exact)
    return head, tail


def _beyond(stats: PositionStats) -> Floats:
    return stats.tail_log_mass.double().exp().numpy()


def _places(wanted: NDArray, ids: NDArray) -> NDArray[np.intp]:
    """At which of the ranks `ids` [N, K] each wanted token [N, S] is; -1 where it is not there."""
    same = wanted[:, :, None] == ids[:, None, :]
    return np.where(same.any(2) & (wanted >= 0), same.argmax(2), -1)


def _target(log_head: Floats, decoding: Decoding) -> Floats:
    """log q [N, S]: the base tempered on S and renormalised."""
    tempered = log_head if decoding.is_greedy else log_head / decoding.temperature
    return tempered - _log_total(tempered)[:, None]


def _split(entropy: Floats, log_head: Floats, tail: Floats) -> dict[str, Floats]:
    """The masses and entropies inside and outside S, and the split of H(p) (eq. 30)."""
    masses = np.exp(log_head)
    kept = masses.sum(1)
    pi = np.divide(masses, kept[:, None], out=np.zeros_like(masses), where=kept[:, None] > 0)
    head_entropy = entr(pi).sum(1)
    tail = np.minimum(tail, 1)  # a sum, which rounding may carry beyond
    gate = entr(tail) - xlog1py(1 - tail, -tail)
    return {
        "entropy": entropy,
        "tail_mass": tail,
        "kept_mass": kept,
        "head_entropy": head_entropy,
        "gate_part": gate,
        "head_part": kept * head_entropy,
        "tail_part": np.maximum(entropy - gate - kept * head_entropy, 0),
    }


def _at_most(stats: PositionStats, tail: Floats) -> Floats:
    """The most, as log p [N], that a token can have which is not among the model's K ranks."""
    last = (stats.top_logits[:, -1].double() - stats.logsumexp).numpy()
    with np.errstate(divide="ignore"):
        return np.minimum(last, np.log(np.minimum(tail, _beyond(stats))))


def _loss_terms(
    log_head: Floats, tail: Floats, log_q: Floats, at_most: Floats, decoding: Decoding
) -> dict[str, Floats]:
    """The three terms of the loss (eq. 12) and KL(q || p), all from log p on S [N, S]."""
    names = ("compression", "reshaping", "alignment", "target_kl")
    if decoding.is_greedy:
        return dict.fromkeys(names, np.full(len(tail), np.nan))
    inside = log_q > -np.inf
    lacks = inside & (log_head == -np.inf)
    log_p = np.where(lacks, at_most[:, None], log_head)
    log_kept = np.where(
        lacks.any(1) | (tail > 0.5), _log_total(log_p), np.log1p(-np.minimum(tail, 0.5))
    )
    tempered = (log_p - log_kept[:, None]) / decoding.temperature
    log_z = _log_total(tempered)  # log sum pi^(1/T)
    q = np.exp(log_q)

    def kl(log_r: Floats) -> Floats:
        return (q * (np.where(inside, log_q, 0) - np.where(inside, log_r, 0))).sum(1)

    aligned = decoding.temperature * kl(tempered - log_z[:, None])
    terms = -log_kept, -decoding.temperature * log_z, aligned, kl(log_p)
    return dict(zip(names, terms, strict=True))


def _log_total(log_p: Floats) -> Floats:
    """log of the sum of each row; NaN where it has no mass, as in a row that is not valid."""
    most = log_p.max(axis=1)
    with np.errstate(invalid="ignore"):  # -inf - -inf
        return most + np.log(np.exp(log_p - most[:, None]).sum(1))

"""Each position in the base and in the tuned model: what changed, and how far training got.

Everything is measured against one set of tokens, the support S that the *base* keeps under the
training decoding: the tail is the mass outside S, the head is the distribution inside S, and the
target q of training is the base tempered on S. Only what the probes keep is needed: S lies within
the base's K ranks.
"""

import numpy as np
import pandas as pd

from ssd_probe.analysis.frames import require_columns, require_exact, stacked, stats_of
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.supports.on_support import on_support

STATISTICS = (
    *("entropy", "tail_mass", "kept_mass", "head_entropy", "branching", "top1_agreement"),
    *("gate_part", "head_part", "tail_part"),
    *("compression", "reshaping", "alignment", "target_kl"),
)
PAIR_STATISTICS = ("kl", "js", "tv")  # of one folder that holds both models (`probe --pair`)
_PAIR_COLUMNS = {"kl": "kl_base_other", "js": "js", "tv": "tv"}
_KEYS = ["sample_id", "position", "token_id"]
_SIDES = ("base", "tuned")


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
    Greedy training has no loss terms: they are NaN, as is what S is needed for in a row that is not
    valid in both. stats: those of the two frames, if they are at
    hand.
    Raises UserError when the rows do not line up. Source: appendix B, eq. 12, 15 and 30.
    """
    require_same_rows(base, tuned)
    own, tuned_stats = stats or (stats_of(base), stats_of(tuned))
    require_exact(own, decoding)
    require_exact(tuned_stats, decoding)
    left = own.truncated([decoding]), tuned_stats.truncated([decoding])
    at_base_top = stacked(base, "other_at_base_top") if "other_at_base_top" in base else None
    size = left[0].size[:, 0].numpy()  # S is a prefix of the ranks
    *sides, missing = on_support(own, tuned_stats, size, decoding, at_base_top)
    agrees = (tuned_stats.top_ids[:, 0] == own.top_ids[:, 0]).double().numpy()
    columns = {"problem_id": base["problem_id"].to_numpy()}
    for name, of, found, cut, agreement in zip(
        _SIDES, (own, tuned_stats), sides, left, (np.ones(len(base)), agrees), strict=True
    ):
        found |= {"entropy": of.entropy.double().numpy(), "top1_agreement": agreement}
        found["branching"] = np.exp(cut.entropy[:, 0].numpy())
        columns |= {f"{name}_{statistic}": found[statistic] for statistic in STATISTICS}
    columns["missing"] = missing
    for name, column in _PAIR_COLUMNS.items():
        if column in base:
            columns |= {f"base_{name}": np.zeros(len(base)), f"tuned_{name}": base[column]}
    return pd.DataFrame({n: np.asarray(values) for n, values in columns.items()}, base.index)


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

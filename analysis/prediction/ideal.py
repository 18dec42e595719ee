"""The student that fits its target exactly, and what it draws, from the base's kept ranks.

Prop. B.2: that student is the base at T_eff = T_train * T_eval on the training support S. S is a
prefix of the base's ranking, so the K ranks of a probe hold all that it can draw.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_probe.decoding import Decoding
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.supports.many_decodings import Truncated, truncated

_ROWS = 65_536  # positions at once where float64 [n, K] is needed


class Ranks(NamedTuple):
    """The ranks of n positions that a model can draw from: p = softmax(logits / temperature)."""

    logits: Tensor  # [n, K] float32, descending; of a student the base's, -inf outside S
    temperature: float = 1.0  # T_train of a student


def ideal_student(base: Ranks, train: Decoding) -> Ranks:
    """The student with p = q: S from `train`, then T_train. Without truncation S is all.

    Source: Prop. B.2.
    """
    if not train.truncates:
        return Ranks(base.logits, train.temperature)
    size = truncated(base.logits, [train]).size  # [n, 1]
    outside = torch.arange(base.logits.shape[1]) >= size
    return Ranks(base.logits.masked_fill(outside, -torch.inf), train.temperature)


def draws(ranks: Ranks, decodings: Sequence[Decoding]) -> Truncated:
    """What is drawn from a model: survivors, entropy, mass of its top token, [n, D] each.

    Right where all that top-k keeps is within the ranks. Source: Lemma B.1.
    """
    return truncated(ranks.logits, [d.after(ranks.temperature) for d in decodings])


def log_totals(ranks: Ranks, decodings: Sequence[Decoding], temperature: float = 1.0) -> Tensor:
    """log sum exp((z - max z) / (temperature * T_eval)) over what top-k leaves, [n, D].

    The top token's mass is 1 over that sum where nothing else is cut.
    """
    settings = [Decoding(temperature * d.temperature, d.top_k) for d in decodings]
    return -truncated(ranks.logits, settings).top1.log()


def lost_mass(base: PositionStats, student: Ranks, train: Decoding) -> Tensor:
    """1 - K, the base's mass at T=1 outside S, float64 [n]: summed there, never 1 - K.

    Source: section 3.
    """
    if not train.truncates:
        return torch.zeros(len(base), dtype=torch.float64)
    outside = student.logits == -torch.inf
    lost = [
        (base.top_logits[some].double() - base.logsumexp[some, None]).exp()
        .where(outside[some], 0).sum(-1)
        for some in torch.arange(len(base)).split(_ROWS)
    ]  # fmt: skip
    return torch.cat(lost) + base.tail_log_mass.double().exp()

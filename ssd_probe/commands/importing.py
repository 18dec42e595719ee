"""`ssd-probe import`: log-probabilities that a server wrote in, a table of intervals out."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ssd_probe.analysis.labels import KINDS, SupportRule
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.digests import file_digest
from ssd_probe.files.record import provenance
from ssd_probe.kernels.results import PositionStats
from ssd_probe.probing.foreign.bounds import Bounds
from ssd_probe.probing.foreign.formats import PROMPT, Answer, read_answers
from ssd_probe.probing.foreign.table import INTERVALS, imported, store

ALL = 1e-3  # a tail below is none
EDGE = 1e-6  # of a nucleus, in which rounding decides
HEAD = SupportRule.head_tokens
UNDECIDED = "undecided"  # what the rule says hangs on what is not told


class Imported(NamedTuple):
    """What was read: `kinds`, by label the positions and the means' intervals; doubts."""

    models: list[str]
    prompts: int
    answers: int
    positions: int
    ranks: int
    with_ids: bool
    kinds: list[dict[str, Any]]
    doubts: list[str]


def import_stage(
    source: Path, out: Path | None, vocabulary: int | None, labelling: Decoding
) -> Imported:
    """Read a server's answers; with `out` write their table there.

    Positions are labelled by the support rule where the K ranks decide it whatever the rest is; the
    table has `label` and `kept_mass` (exact, of `labelling`'s support; else null). `kinds` has of
    each label positions, `kept_mass`, and the means of `tail_mass`, `entropy`, `varentropy` as
    `_low` and `_high` (None: not bounded).
    """
    read = read_answers(source)
    if len(read.models) > 1:
        raise UserError(
            f"{source}: answers of several models ({', '.join(read.models)}); one a table"
        )
    table, found = imported(read, vocabulary)
    log_p = np.array(table["top_logprobs"].to_pylist())
    labels, kept = _labelled(log_p, found, vocabulary, SupportRule(labelling))
    columns = {f"{n}_{end}": table[f"{n}_{end}"].to_pandas() for n in INTERVALS for end in _ENDS}
    frame = pd.DataFrame({"label": labels, "kept_mass": kept, **columns})
    for name in ("label", "kept_mass"):
        table = table.append_column(name, pa.array(frame[name], from_pandas=True))
    prompts = sum(answer.segment == PROMPT for answer in read.answers)
    doubts = _doubts(log_p, found, vocabulary, table["logprob"].null_count)
    doubts += _shortened(read.answers, log_p.shape[1])
    doubts += _undecided(labels, log_p.shape[1], labelling)
    if len(set(table["segment"].to_pylist())) > 1:
        doubts.append(
            "the means are over prompts' tokens and the answers' own; the table's `segment` tells "
            "them apart"
        )
    if out is not None:
        about = {
            "model": read.models[0] if read.models else None,
            "source": str(source), "sha256": file_digest(source), "vocabulary": vocabulary,
            "decimals": read.decimals, "doubts": doubts, **provenance(),
        }  # fmt: skip
        store(table, out, about)
    ids = table["top_ids"].null_count == 0
    answers = len(read.answers) - prompts
    return Imported(
        read.models, prompts, answers, len(table), log_p.shape[1], ids, _by_kind(frame), doubts
    )


_ENDS = ("low", "high")


def _labelled(
    log_p: np.ndarray, found: Bounds, vocabulary: int | None, rule: SupportRule
) -> tuple[np.ndarray, np.ndarray]:
    """Labels that hold at both ends of the tail, and the mass of the support."""
    ends = [_stats(log_p, mass) for mass in found.tail]
    try:
        least, most = (rule.kinds(stats) for stats in ends)
    except UserError:  # fewer ranks than the rule's head
        least = most = np.full(len(log_p), UNDECIDED)
    exact = ends[1].support_exact(rule.decoding).numpy()
    exact |= _ties_change_nothing(log_p, found.tail.high, vocabulary, rule.decoding)
    labels = np.where((least == most) & exact, least, UNDECIDED)
    kept = ends[1].kept_mass(rule.decoding).numpy()
    return labels, np.where(exact, kept, np.nan)


def _ties_change_nothing(
    log_p: np.ndarray, tail: np.ndarray, vocabulary: int | None, d: Decoding
) -> np.ndarray:
    """Where as many ranks are told as top-k keeps: whether ties beyond leave S as it is, bool [N].

    All of the tail could be tokens as likely as the K-th, n = min(r / p_K, V - K) of them, which
    top-k would keep too. The nucleus is then of a larger mass, between the two (w = p^(1/T)):

        sum_{i<=K} w_i   <=   mass   <=   sum_{i<=K} w_i + n w_K
    """
    ranks = log_p.shape[1]
    if d.is_greedy or d.top_k != ranks or d.top_p == 1:
        return np.zeros(len(log_p), bool)
    w = np.exp(log_p / d.temperature)
    most_ties = np.inf if vocabulary is None else vocabulary - ranks
    ties = np.minimum(tail / np.exp(log_p[:, -1]), most_ties) * w[:, -1]
    before = np.cumsum(w, 1) - w  # a rank stays where the mass before it falls short
    least, most = (
        (before < (d.top_p + slack) * mass[:, None]).sum(1)
        for slack, mass in ((-EDGE, w.sum(1)), (EDGE, w.sum(1) + ties))
    )
    return (least == most) & (most < d.top_k)


def _stats(log_p: np.ndarray, tail: np.ndarray) -> PositionStats:
    """With the logits that are log p, and a tail of this mass."""
    unknown = np.full(len(log_p), np.nan, np.float32)
    with np.errstate(divide="ignore"):
        beyond = np.log(tail)
    return PositionStats.from_columns({
        "max_logit": log_p[:, 0], "log_partition": -log_p[:, 0], "entropy": unknown,
        "varentropy": unknown, "tail_log_mass": beyond, "top_logits": log_p.astype(np.float32),
        "top_ids": np.zeros(log_p.shape, np.int32), "valid": np.ones(len(log_p), bool),
    })  # fmt: skip


def _by_kind(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for kind in (*KINDS, UNDECIDED):
        part = frame[frame["label"] == kind].drop(columns="label")
        if len(part):
            means = {n: None if part[n].isna().any() else float(part[n].mean()) for n in part}
            rows.append({"label": kind, "positions": len(part), **means})
    return rows


def _doubts(log_p: np.ndarray, found: Bounds, vocabulary: int | None, untold: int) -> list[str]:
    """untold: positions whose own token has no log-probability."""
    doubts = []
    if (found.tail.low == 0).all() and (found.tail.high < ALL).all():
        doubts.append(
            f"at every position the {log_p.shape[1]} tokens have all the mass: were the numbers "
            "taken after truncation? They must be the model's own, at T=1"
        )
    if untold:
        doubts.append(
            f"{untold:,} of {len(log_p):,} tokens have no log-probability, where the server tells "
            "none (-9999, null); their positions have that of the leading ones"
        )
    if vocabulary is None:
        doubts.append("without --vocab-size entropies have no upper end")
    return doubts


def _shortened(answers: list[Answer], ranks: int) -> list[str]:
    """Where few positions tell fewer tokens than most, and all are read with as few."""
    told = np.array([len(position.leading) for answer in answers for position in answer.positions])
    most = int(np.median(told))
    if most == ranks:
        return []
    return [
        f"{(told < most).sum():,} of {len(told):,} positions tell fewer than {most} tokens, the "
        f"fewest {ranks}: all are read with {ranks}; without those more is known of the others"
    ]


def _undecided(labels: np.ndarray, ranks: int, labelling: Decoding) -> list[str]:
    """Where half of the positions or more have no label for want of tokens: what to ask for."""
    count, enough = int((labels == UNDECIDED).sum()), max(labelling.top_k, HEAD) + 1
    if count < len(labels) / 2 or ranks >= enough:
        return []
    return [
        f"{count:,} of {len(labels):,} positions are undecided: {ranks} tokens do not tell what "
        f"{labelling} keeps; ask the server for {enough}, or label by a smaller --rule-top-k"
    ]

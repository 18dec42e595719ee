"""Decode-only rivals of SSD: what the base may do at each token instead of being trained.

Each is a `Policy`: its own parameters, and a `Decoding` that is the rest of it. What the two make
together, in which order, is in the class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssd_probe.decoding import PAPER_TRAIN, Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.kernels.supports.rules import (
    AtLeast,
    Eta,
    MinP,
    Rule,
    TopH,
    TopNSigma,
    Typical,
    row_of,
)
from ssd_probe.policies.lines import LineStarts

RULES: dict[str, type[Rule]] = {
    "min-p": MinP,
    "top-n-sigma": TopNSigma,
    "epsilon": AtLeast,
    "eta": Eta,
    "typical": Typical,
    "top-h": TopH,
}


@dataclasses.dataclass(frozen=True)
class Rival(Policy):
    """A policy by its `name`, its parameters (the other fields), and `decoding`."""

    decoding: Decoding = dataclasses.field(default=Decoding(), kw_only=True)

    name: ClassVar[str]
    order: ClassVar[str]

    def parameters(self) -> dict[str, Any]:
        """Names and numbers, as `parsing.policy_of` reads them."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if name != "decoding"}

    @property
    def text(self) -> str:
        """E.g. "two-stage(T_train=1.6, top_k=20, top_p=0.8)"; `parsing.policy_of` reads it."""
        numbers = ((name, repr(value)) for name, value in self.parameters().items())
        said = ", ".join(f"{name}={value.removesuffix('.0')}" for name, value in numbers)
        return f"{self.name}({said})"

    def __str__(self) -> str:
        return f"{self.text} at {self.decoding}"

    def to_dict(self) -> dict[str, Any]:
        return {"policy": self.text, **self.decoding.to_dict(), "order": self.order}


@dataclasses.dataclass(frozen=True)
class TwoStage(Rival):
    """The support of the training decoding, tempered by T_train * T_eval, then truncated again.

        draw from  TopP(TopK(Temper_{T_train T_eval}[p0 on S], k_eval), p_eval),
        S = TopP(TopK(Temper_{T_train}[p0], top_k), top_p)

    `decoding` is the evaluation's. This is what the student that fits its target exactly draws at
    that decoding: the part of SSD that needs no training. Source: Prop. B.2.
    """

    T_train: float = PAPER_TRAIN.temperature
    top_k: int = PAPER_TRAIN.top_k
    top_p: float = PAPER_TRAIN.top_p

    name: ClassVar[str] = "two-stage"
    order: ClassVar[str] = "training support, T_train * temperature, top_k, top_p"

    def __post_init__(self) -> None:
        _ = self.train  # refuses what no Decoding may be

    @property
    def train(self) -> Decoding:
        """How the training samples would be drawn."""
        return Decoding(self.T_train, self.top_k, self.top_p)

    @property
    def second(self) -> Decoding:
        """What is done to the base's logits on S."""
        return self.decoding.after(self.T_train)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        ids, kept = self.train.candidates(logits)
        inside = logits.to(kept.dtype).gather(-1, ids).masked_fill(kept == -torch.inf, -torch.inf)
        places, left = self.second.candidates(inside)
        return ids.gather(-1, places), left


@dataclasses.dataclass(frozen=True)
class Cut(Rival):
    """One of `kernels.supports.rules` on what the decoding left, tempered and renormalised.

    As Hugging Face does it; vLLM has min-p before top-k and top-p, where they then see less. The
    rules are published for all of the distribution: leave top-k and top-p off for those.
    """

    rule: Rule = dataclasses.field(kw_only=True)

    order: ClassVar[str] = "temperature, top_k, top_p, the policy's rule"

    @property
    def name(self) -> str:  # type: ignore[override]
        return next(name for name, kind in RULES.items() if type(self.rule) is kind)

    def parameters(self) -> dict[str, Any]:
        return dataclasses.asdict(self.rule)  # type: ignore[call-overload]

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        ids, left = self.decoding.candidates(logits)
        flat = logits.gather(-1, ids).masked_fill(left == -torch.inf, -torch.inf)
        z = tempered(flat.reshape(-1, flat.shape[-1]), temperature_of(self.decoding))
        keeps = self.rule.keeps(z, row_of(z)).reshape(left.shape)
        return ids, left.masked_fill(~keeps, -torch.inf)


@dataclasses.dataclass(frozen=True)
class Edt(Rival):
    """Entropy-based dynamic temperature:  T = T0 * 0.8^(theta / H),  then top-k and top-p.

    H: the row's own entropy at T=1, nats; T0: the decoding's temperature. Source: arXiv 2403.14541.
    """

    theta: float = dataclasses.field(kw_only=True)

    name: ClassVar[str] = "edt"
    order: ClassVar[str] = "temperature * 0.8^(theta / H), top_k, top_p"

    def __post_init__(self) -> None:
        _check_above_0("theta", self.theta)

    def temperature(self, entropy: Tensor) -> Tensor:
        """The T of rows by their entropies, float64; 0 where H is."""
        entropy = entropy.double().clamp(min=1e-300)  # of one token it may be -0
        return self.decoding.temperature * 0.8 ** (self.theta / entropy)

    def tempered(self, logits: Tensor, entropy: Tensor) -> Tensor:
        """Of rows by their entropies; at T = 0 only the maxima are left."""
        return tempered(logits, self.temperature(entropy).clamp(min=1e-300)[..., None])

    @property
    def truncation(self) -> Decoding:
        """What follows on the temperature."""
        return dataclasses.replace(self.decoding, temperature=1.0)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        flat = logits.reshape(-1, logits.shape[-1])
        entropy = row_of(tempered(flat, 1.0)).entropy.reshape(logits.shape[:-1])
        return self.truncation.candidates(self.tempered(logits, entropy))


@dataclasses.dataclass(frozen=True)
class ByLabel(Rival):
    """Locks cold, forks hot: a temperature for each label of the base's own distribution.

        T = T_lock at a lock, the decoding's at a fork, T_other where open or neither

    then top-k and top-p. The labels are `SupportRule`'s, with its defaults. What the paper's
    discussion asks for; no published rule, so no defaults.
    """

    T_lock: float = dataclasses.field(kw_only=True)
    T_other: float = dataclasses.field(kw_only=True)

    name: ClassVar[str] = "by-label"
    order: ClassVar[str] = "temperature by SupportRule's label, top_k, top_p"

    def __post_init__(self) -> None:
        _ = self.by_label

    @property
    def by_label(self) -> dict[str, Decoding]:
        """Each label's decoding."""
        from ssd_probe.analysis.labels import FORK, KINDS, LOCK

        temperatures = {LOCK: self.T_lock, FORK: self.decoding.temperature}
        return {
            kind: dataclasses.replace(
                self.decoding, temperature=temperatures.get(kind, self.T_other)
            )
            for kind in KINDS
        }

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        from ssd_probe.analysis.labels import SupportRule
        from ssd_probe.kernels.stats import position_stats

        flat = logits.reshape(-1, logits.shape[-1])
        kinds = SupportRule().kinds(position_stats(flat.float()))
        rows = {kind: torch.from_numpy(kinds == kind) for kind in self.by_label}
        return _chosen(flat, rows, self.by_label, logits)


@dataclasses.dataclass(frozen=True)
class AdapT(Rival):
    """One temperature at the start of a line, the decoding's elsewhere; then top-k and top-p.

    A line's start: nothing but blanks since the last end of a line (`LineStarts`). The authors'
    code asks for one of their tokenizer's tokens of indentation after one of an end of line. Its
    settings for HumanEval: 0.8 at the start, 0.6 elsewhere. Source: arXiv 2309.02772.
    """

    T_start: float = 0.8

    name: ClassVar[str] = "adapt"
    order: ClassVar[str] = "temperature by the place in the line, top_k, top_p"

    def __post_init__(self) -> None:
        _ = self.at_start

    @property
    def at_start(self) -> Decoding:
        return dataclasses.replace(self.decoding, temperature=self.T_start)

    def candidates(self, logits: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`starts` [...] bool: whether a line begins here. Errors: `UserError` without."""
        if starts is None:
            raise UserError(f"{self.text}: logits do not say where a line begins; the text does")
        rows = {"start": starts.reshape(-1), "rest": ~starts.reshape(-1)}
        flat = logits.reshape(-1, logits.shape[-1])
        return _chosen(flat, rows, {"start": self.at_start, "rest": self.decoding}, logits)

    def bound(self, tokenizer: Any) -> Callable[[Any, Tensor], tuple[Tensor, Tensor]]:
        starts = LineStarts(tokenizer)
        return lambda ids, logits: self.candidates(logits, starts(ids))


def tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """(z - max z) / T of each row, float64: large logits keep their logsumexp."""
    z = logits.double()
    return (z - z.amax(-1, keepdim=True)) / temperature


def temperature_of(decoding: Decoding) -> float:
    """What logits are divided by; 1 for greedy, which keeps one token."""
    return 1.0 if decoding.is_greedy else decoding.temperature


def _chosen(
    flat: Tensor, rows: dict[str, Tensor], decodings: dict[str, Decoding], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Each row [n, V] by the decoding of its kind, in the shape of `like`."""
    kept = torch.full_like(flat, -torch.inf, dtype=torch.promote_types(flat.dtype, torch.float32))
    for kind, here in rows.items():
        here = here.to(flat.device)
        if here.any():
            kept[here] = decodings[kind].warp(flat[here])
    every = torch.arange(like.shape[-1], device=like.device).expand(like.shape)
    return every, kept.reshape(like.shape)


def _check_above_0(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{name} = {value}: must be a finite number above 0")

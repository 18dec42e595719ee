"""How a next token is drawn: a `Policy`; temperature, then top-k, then top-p is the `Decoding`.

The project's one definition of that; other rules that build on it are in `policies`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ssd_probe.errors import UserError

# torch is imported inside the methods that compute, so that `ssd-probe --help` does not wait.
if TYPE_CHECKING:
    from torch import Tensor

GREEDY_BELOW = 1e-5  # as in vLLM: a smaller temperature is greedy

# Paper, Tables 3 (train, eval) and 4 (baseline): temperature, top-k (0 = none), top-p.
_PRESETS = {
    "llama-3.1-8b-instruct": {
        "train": (0.8, 20, 0.8), "eval": (0.7, 20, 0.8), "baseline": (0.9, 0, 0.8),
    },
    "qwen3-4b-instruct": {
        "train": (1.6, 20, 0.8), "eval": (1.1, 20, 0.8), "baseline": (0.7, 20, 0.8),
    },
    "qwen3-4b-thinking": {
        "train": (1.1, 20, 0.95), "eval": (0.7, 20, 0.95), "baseline": (0.6, 20, 0.95),
    },
    "qwen3-30b-instruct": {
        "train": (1.6, 20, 0.8), "eval": (0.9, 20, 0.8), "baseline": (0.7, 20, 0.8),
    },
    "qwen3-30b-thinking": {
        "train": (1.2, 20, 0.95), "eval": (0.7, 20, 0.95), "baseline": (0.6, 20, 0.95),
    },
    "gpt-oss-20b": {
        "train": (1.2, 0, 1.0), "eval": (1.0, 20, 0.95), "baseline": (1.0, 0, 1.0),
    },
}  # fmt: skip


class Policy:
    """How a next token is drawn from logits; a subclass says which `candidates` there are."""

    @property
    def is_greedy(self) -> bool:
        """Whether only the argmax can be drawn, of every row."""
        return False

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [..., M] that may be drawn, ascending, and their `warp`ed logits; M may be below V.

        All that is not among them is removed; of them too some may be, which are -inf.
        """
        raise NotImplementedError

    def bound(self, tokenizer: Any) -> Callable[[Any, Tensor], tuple[Tensor, Tensor]]:
        """`candidates` of (ids before, logits [B, V]), for policies that read the text.

        The ids: a tensor [B, L], or B sequences.
        """
        return lambda ids, logits: self.candidates(logits)

    def warp(self, logits: Tensor) -> Tensor:
        """Logits [..., V] of what is drawn from, every removed token at -inf."""
        return spread(logits, *self.candidates(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What is drawn from: softmax of `warp`, [..., V], float64, 0 where removed."""
        return self.warp(logits).double().softmax(-1)

    def to_dict(self) -> dict[str, Any]:
        """The settings with their order, ready for JSON."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Decoding(Policy):
    """Decoding settings; the order temperature -> top-k -> top-p is part of them.

    `temperature` >= 0 divides the logits; below 1e-5 it means greedy. `top_k` keeps the logits not
    below the k-th largest (ties stay); 0 means off, as does k >= V. `top_p` in (0, 1] keeps the
    smallest prefix, in decreasing probability, whose mass reaches it; 1 means off.

    Errors: `UserError` for a value outside its range.
    Source: paper section 1 and appendix A.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    order: ClassVar[str] = "temperature, top_k, top_p"

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, lambda x: x >= 0, "a finite number >= 0")
        _check_number("top_p", self.top_p, lambda x: 0 < x <= 1, "a number in (0, 1]")
        if not _is_a(self.top_k, numbers.Integral) or self.top_k < 0:
            raise UserError(f"top_k = {self.top_k!r}: must be an integer >= 0 (0 = off)")
        # Plain Python numbers, so that settings compare, hash and serialise the same everywhere.
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "top_k", int(self.top_k))
        object.__setattr__(self, "top_p", float(self.top_p))

    @classmethod
    def preset(cls, model: str, stage: str) -> Decoding:
        """The paper's settings of one model; `stage` is "train", "eval" or "baseline".

        `model` is a short name ("qwen3-4b-instruct") or that of the published checkpoint
        ("Qwen/Qwen3-4B-Instruct-2507"). Errors: `UserError` that lists the names.
        Source: paper Table 3 (train, eval) and Table 4 (baseline).
        """
        name = model.lower().rsplit("/")[-1].removesuffix("-2507").replace("-a3b", "")
        if name not in _PRESETS:
            raise UserError(f"model = {model!r}: no preset; must be one of {', '.join(_PRESETS)}")
        if stage not in _PRESETS[name]:
            raise UserError(f"stage = {stage!r}: must be one of {', '.join(_PRESETS[name])}")
        return cls(*_PRESETS[name][stage])

    @property
    def presets(self) -> list[tuple[str, str]]:
        """Whose settings in the paper these are: (model, stage) of `preset`, none to several."""
        return [(model, stage) for model, stages in _PRESETS.items()
                for stage, settings in stages.items() if Decoding(*settings) == self]  # fmt: skip

    @property
    def is_greedy(self) -> bool:
        """Whether only the argmax can be drawn (temperature < 1e-5)."""
        return self.temperature < GREEDY_BELOW

    @property
    def truncates(self) -> bool:
        """Whether any setting can remove a token."""
        return self.is_greedy or self.top_k > 0 or self.top_p < 1

    def after(self, temperature: float) -> Decoding:
        """This decoding of a model that was tempered before: temperatures multiply.

        Source: Lemma B.1.
        """
        return dataclasses.replace(self, temperature=temperature * self.temperature)

    def to_dict(self) -> dict[str, Any]:
        """The settings with their order, ready for JSON."""
        return {**dataclasses.asdict(self), "order": self.order}

    def __str__(self) -> str:
        """E.g. "T=1.6, top-k 20, top-p 0.8"; what is off is left out."""
        if self.is_greedy:
            return "greedy"
        top_k = f", top-k {self.top_k}" if self.top_k else ""
        top_p = f", top-p {self.top_p:.10g}" if self.top_p < 1 else ""
        return f"T={self.temperature:.10g}{top_k}{top_p}"

    def warp(self, logits: Tensor) -> Tensor:
        """Tempered logits with every removed token at -inf.

            z / T on the support S = TopP(TopK(softmax(z / T), k), top_p), and -inf elsewhere

        `logits` [..., V], any float dtype; -inf entries are legal, NaN and +inf are not looked for.
        Returns [..., V], float32 (float64 for float64 input). Greedy keeps the argmax (lowest id
        at ties) at its untempered logit. Support: see `kept`.
        Source: paper section 1, appendix A.
        """
        return super().warp(logits)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Policy`; with top-k, M is about k."""
        import torch

        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.to(dtype)
        if self.is_greedy:
            best = logits.argmax(-1, keepdim=True)
            return best, logits.gather(-1, best)
        every = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
        if not self.truncates:
            return every, self._tempered(logits)
        ranked, ids = self._ranked(logits)
        left = self._tempered(ranked).masked_fill(~self.kept(ranked), -torch.inf)
        if ids.shape[-1] == logits.shape[-1]:
            return every, torch.empty_like(logits).scatter(-1, ids, left)
        ids, order = ids.sort(-1)
        return ids, left.gather(-1, order)

    def _tempered(self, logits: Tensor) -> Tensor:
        """Divided in float64, so that a large T does not become inf (and -inf / inf a NaN)."""
        return (logits.double() / self.temperature).to(logits.dtype)

    def _ranked(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits in descending order and their ids, of equal ones the lowest first.

        With top-k only as many as may survive it: a vocabulary is then not sorted.
        """
        if not 0 < self.top_k < logits.shape[-1] or not logits.numel():
            return logits.sort(dim=-1, descending=True, stable=True)
        edge = logits.topk(self.top_k).values[..., -1:]
        most = max(self.top_k, int((logits >= edge).sum(-1).max()))
        ids = logits.topk(most).indices.sort(-1).values
        ranked, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
        return ranked, ids.gather(-1, order)

    def kept(self, ranked: Tensor, log_partition: Tensor | None = None) -> Tensor:
        """Which ranks survive: bool [..., K] for untempered logits `ranked` [..., K], descending.

            rank r stays  <=>  z_r >= z_k  and  sum_{i<r} p_i < top_p,
            p = softmax(z / T) over the survivors of top-k

        `log_partition` [...] = logsumexp(z / T) of the distribution that top-p sees, for when
        `ranked` is only its head; by default it is taken over `ranked`.

        A mass within rounding of top_p counts as reaching it: 1e-7 for logits of float32 or less
        (about what their own rounding moves a mass by), 1e-12 for float64. So [0.5, 0.3, 0.2] at
        top-p 0.8 keeps two tokens. Unlike Hugging Face, which computes masses in the logits'
        dtype: masses are float64, top-k compares the untempered logits (division cannot create
        ties), and of equal logits at the nucleus edge the first stay.
        """
        import torch

        alive = ranked > -torch.inf
        if self.is_greedy:
            return alive & (torch.arange(ranked.shape[-1], device=ranked.device) == 0)
        if 0 < self.top_k < ranked.shape[-1]:
            alive &= ranked >= ranked[..., self.top_k - 1, None]
        if self.top_p < 1:
            z = ranked.double()
            if log_partition is None:  # below the largest, or large logits would lose it
                z = z - z[..., :1]
            tempered = (z / self.temperature).masked_fill(~alive, -torch.inf)
            if log_partition is None:
                log_partition = tempered.logsumexp(-1)
            mass = (tempered - log_partition.double()[..., None]).exp().cumsum(-1)
            slack = 1e-12 if ranked.dtype == torch.float64 else 1e-7
            # A rank stays if the mass before it falls short; the first rank always does.
            alive[..., 1:] &= mass[..., :-1] < self.top_p - slack
        return alive


def spread(logits: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
    """What a policy's `candidates` gave of these logits, in their shape; -inf elsewhere."""
    import torch

    return torch.full_like(logits, -torch.inf, dtype=kept.dtype).scatter(-1, ids, kept)


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a float can hold this number; `math.isfinite` raises for whole ones beyond."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_number(name: str, value: Any, legal: Any, expected: str) -> None:
    if not (_is_a(value, numbers.Real) and is_finite(value) and legal(value)):
        raise UserError(f"{name} = {value!r}: must be {expected}")


PAPER_TRAIN = Decoding.preset("qwen3-4b-instruct", "train")
LABELLING = PAPER_TRAIN  # of `analysis.labels.SupportRule`, whatever was trained at
"""The default where one is needed: how the paper sampled Qwen3-4B-Instruct's own training data
(Table 3; T=1.6, top-k 20, top-p 0.8). The support that a student learns is this truncation's."""

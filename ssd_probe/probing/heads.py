"""A model's output layer, from its last hidden states on: weight, bias, scale and soft cap.

    z = cap * tanh(scale * (W h + b) / cap),  without a cap  z = scale * (W h + b)

What a configuration says is tried against the model's own logits, not trusted: a layer that gives
others is no `Head`, and the model then makes its logits itself.
"""

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_probe.kernels.head import lm_head_stats
from ssd_probe.kernels.stats import PositionStats

TRIED_TOKENS = 16
# By dtype, how far two ways to the same logits may lie apart, relative to the largest logit.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Head:
    """`weight` [V, D], `bias` [V] or None, `scale`, `softcap` or None."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def in_float32(self) -> "Head":
        """The same with a float32 weight: a copy of [V, D], and products in float32 on GPUs."""
        bias = None if self.bias is None else self.bias.float()
        return replace(self, weight=self.weight.float(), bias=bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] of hidden states [N, D], in the weight's dtype."""
        z = torch.nn.functional.linear(hidden.to(self.weight), self.weight, self.bias) * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def stats(self, hidden: Tensor, targets: Tensor, top_k: int, backend: str) -> PositionStats:
        """`lm_head_stats` of hidden states [N, D]."""
        device = self.weight.device
        return lm_head_stats(
            hidden.to(device),
            self.weight,
            bias=self.bias,
            scale=self.scale,
            softcap=self.softcap,
            top_k=top_k,
            targets=targets.to(device),
            backend=backend,
        )

    def log_mass(self, hidden: Tensor, begin: int | None) -> Tensor:
        """logsumexp [N] of the logits of ids from `begin` on; -inf where there are none."""
        weight = self.weight[len(self.weight) if begin is None else begin :]
        if not len(weight):
            return weight.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
        bias = None if self.bias is None else self.bias[begin:]
        rows = replace(self, weight=weight, bias=bias)
        return torch.cat([rows.logits(h).float().logsumexp(-1) for h in hidden.split(1024)])


@torch.inference_mode()
def read_head(model: PreTrainedModel) -> Head | None:
    """The model's output layer; None where a linear one does not give the model's logits."""
    inner = without_adapter(model)
    layer, base = inner.get_output_embeddings(), inner.base_model
    weight = getattr(layer, "weight", None)
    if base is inner or weight is None or weight.is_meta or not weight.is_floating_point():
        return None
    embedding: Any = model.get_input_embeddings()
    ids = torch.arange(TRIED_TOKENS, device=model.device)[None] % embedding.weight.shape[0]
    hidden = getattr(base(input_ids=ids, use_cache=False), "last_hidden_state", None)
    if hidden is None or hidden.shape[-1] != weight.shape[-1]:
        return None
    own = model(input_ids=ids, use_cache=False).logits[0].double()
    config = inner.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    for scale in _scales(config):
        head = Head(weight.detach(), getattr(layer, "bias", None), scale, softcap)
        error = (head.logits(hidden[0]).double() - own).abs().max()
        if error <= TOLERANCES[weight.dtype] * own.abs().max():
            return head
    return None


def _scales(config: Any) -> list[float]:
    """What may multiply the logits, by the names in use; Granite divides by `logits_scaling`."""
    names = ("logit_scale", "lm_head_multiplier", "logits_scaling")
    found = [value for name in names if (value := getattr(config, name, None))]
    return [1.0, *found, *(1 / value for value in found)]


def output_rows(model: PreTrainedModel) -> int:
    """How many logits the model gives."""
    layer: Any = model.get_output_embeddings()
    rows = model.config.get_text_config().vocab_size
    return rows if layer is None else layer.weight.shape[0]


def log_mass_from(logits: Tensor, begin: int | None) -> Tensor:
    """logsumexp [N] of logits [N, V] from id `begin` on; -inf where there are none."""
    return logits[:, logits.shape[1] if begin is None else begin :].float().logsumexp(-1)


def without_adapter(model: Any) -> PreTrainedModel:
    """The model within a PEFT wrapper, whose layers hold the adapter's; else the model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.inference_mode()
def hidden_states(model: PreTrainedModel, ids: Tensor, mask: Tensor | None) -> Tensor:
    """The states [B, L, D] that go into the output layer, for token ids [B, L]."""
    base = without_adapter(model).base_model
    return base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


@torch.inference_mode()
def own_logits(model: PreTrainedModel, ids: Tensor, at: Tensor) -> Tensor:
    """The model's own logits [n, V] of one sequence [1, L] at positions `at`, not in float64."""
    if "logits_to_keep" in inspect.signature(without_adapter(model).forward).parameters:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=at).logits[0]
    else:
        logits = model(input_ids=ids, use_cache=False).logits[0, at]
    return logits.float() if logits.dtype == torch.float64 else logits

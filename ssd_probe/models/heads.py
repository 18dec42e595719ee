"""A model's output layer as a `Head`, and its last hidden states.

What a configuration says is tried against the model's own logits, not trusted: a layer that gives
others is no `Head`, and the model then makes its logits itself.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssd_probe.kernels.head import Head

TRIED_TOKENS = 16
# By dtype, how far two ways to the same logits may lie apart, relative to the largest logit.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


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


def log_mass(head: Head, hidden: Tensor, begin: int | None) -> Tensor:
    """logsumexp [N] of the logits of ids from `begin` on; -inf where there are none."""
    rows = head.rows(slice(len(head.weight) if begin is None else begin, None))
    if not len(rows.weight):
        return head.weight.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
    return torch.cat([rows.logits(h).float().logsumexp(-1) for h in hidden.split(1024)])


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

"""The training loss from hidden states: logits of the completion alone, a chunk of rows at a time.

A model's own loss makes the logits [B, L, V] of prompts, padding and all, and several copies: at
L = 65,536 and V = 151,936 (the paper's) 40 GB for one sequence in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ssd_probe.kernels.head import Head
from ssd_probe.models.heads import read_head, without_adapter

LOGITS_BYTES = 2**26  # of a chunk's logits; about four times as much exists at once


class CompletionLoss:
    """Token cross-entropy, mean over the completions' tokens, in nats.

        loss = -sum_t log softmax(z_t)[target_t] / tokens,    z_t = head(hidden_t)

    Only positions whose target has a label are given to the output layer, so many at a time that
    their logits take `LOGITS_BYTES`; their gradients are made from logits computed again.

    Within `installed` the model's output layer passes nothing on, its forward's logits mean
    nothing, and calling this with the labels [B, L] gives the loss of the forward just done. Where
    no gradient is wanted, as in an evaluation between two steps, the layer is itself.
    """

    def __init__(self, model: Any, head: Head, mixed: torch.dtype | None = None):
        self.layer: Any = without_adapter(model).get_output_embeddings()
        self.rows = len(head.weight)
        # Not its weight: once it is sharded, that would be the whole of it, kept from before.
        self.head, self.mixed = replace(head, weight=head.weight.new_empty(0), bias=None), mixed
        self.linear: Callable[[Tensor], Tensor] = self.layer.forward
        self.hidden: Tensor | None = None

    @classmethod
    def of(
        cls, model: Any, scale: float, softcap: float | None, mixed: torch.dtype | None
    ) -> "CompletionLoss":
        """For a model without weights, of whose output layer another process knows the form."""
        layer: Any = without_adapter(model).get_output_embeddings()
        return cls(model, Head(layer.weight.detach(), None, scale, softcap), mixed)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The output layer keeps what it is given, and gives one column of it back."""
        own = vars(self.layer).get("forward")  # where a library has wrapped it
        self.layer.forward = self._keep
        try:
            yield
        finally:
            if own is None:
                del self.layer.forward  # the class has its own
            else:
                self.layer.forward = own
            self.hidden = None

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """For Trainer's `compute_loss_func`; tokens = `num_items_in_batch`, else those here."""
        assert self.hidden is not None
        hidden, self.hidden = self.hidden, None
        targets = labels[:, 1:].to(hidden.device)
        scored = targets != -100
        first, hidden, targets = hidden[:, :1], hidden[:, :-1][scored], targets[scored]
        rows = max(1, LOGITS_BYTES // (4 * self.rows))
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), rows):
            part = hidden[start : start + rows], targets[start : start + rows]
            total = total + checkpoint(self._sum, *part, use_reentrant=False)
        if not len(targets):  # no token here, and still a gradient (of zero) everywhere
            total = total + 0 * self._sum(first[:, 0], labels[:, 0].clamp(min=0))
        return total / (len(targets) or 1 if num_items_in_batch is None else num_items_in_batch)

    def _keep(self, hidden: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.linear(hidden)
        self.hidden = hidden
        return hidden[..., :1].clone()  # FSDP refuses a view

    def _sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        with self._precision(hidden):
            logits = self.head.finish(self.linear(hidden))
        return functional.cross_entropy(logits.float(), targets, reduction="sum")

    def _precision(self, hidden: Tensor) -> AbstractContextManager:
        if self.mixed is None:
            return nullcontext()
        return torch.autocast(hidden.device.type, self.mixed)


def completion_loss(model: Any, mixed: torch.dtype | None = None) -> CompletionLoss | None:
    """For a model whose output layer is known (`read_head`); None where its own loss is needed.

    That is so, too, where a router's loss is part of the model's own. mixed: the dtype of autocast.
    """
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        return None
    model.eval()  # the layer is tried without dropout
    head = read_head(model)
    return None if head is None else CompletionLoss(model, head, mixed)

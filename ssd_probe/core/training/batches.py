"""Samples as batches: which can be trained on, padded side by side or packed end to end."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithFlattening

from ssd_probe.core.config import BY_LENGTH, TrainConfig
from ssd_probe.errors import UserError
from ssd_probe.models.heads import TOLERANCES
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import token_ids

IGNORED = -100  # label of the prompt's tokens: only the completion has a loss
TRIED = (7, 5, 9)  # lengths of the samples by which packing is tried


def fitting(
    rows: Sequence[dict], model: Any, config: TrainConfig
) -> tuple[list[dict], dict[str, int]]:
    """The samples that can be trained on; how many others there are, by what is wrong with them.

    `UserError` for a sample without token ids, or with ids that the model does not know.
    """
    vocabulary, context = input_rows(model), context_length(model)
    longest = min(config.max_length, context or config.max_length)
    what = "the model's context" if longest == context else "max_length"
    fit, dropped = [], Counter[str]()
    for row in rows:
        prompt, completion = (
            token_ids(row, key, vocabulary) for key in ("prompt_ids", "completion_ids")
        )
        if not completion:
            dropped["empty"] += 1
        elif config.drop_unfinished and row.get("finished") is False:
            dropped[BY_LENGTH] += 1
        elif len(prompt) + len(completion) > longest:
            dropped[f"longer than {longest} tokens, {what}"] += 1
        else:
            fit.append(row)
    return fit, dict(dropped)


def listed(count: int, dropped: dict[str, int]) -> str:
    """How many of `count` samples are left out, and why."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
    return f"{sum(dropped.values())} of {count} samples left out ({reasons or 'there are none'})"


def example(row: dict) -> dict:
    """A sample as the trainer takes it: the prompt's tokens have no label."""
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    ids = prompt + completion
    labels = [IGNORED] * len(prompt) + completion
    return {"input_ids": ids, "labels": labels, "length": len(ids)}


def collate(examples: Sequence[dict], pad: int = 0) -> dict[str, Tensor]:
    """A batch [B, L], padded on the right whatever the tokenizer says.

    There a sequence's positions count from its own beginning, and nothing sees the padding.
    """

    def stacked(name: str, filler: int) -> Tensor:
        rows = [torch.tensor(example[name]) for example in examples]
        return pad_sequence(rows, batch_first=True, padding_value=filler)

    ones = [torch.ones(len(example["input_ids"]), dtype=torch.long) for example in examples]
    mask = pad_sequence(ones, batch_first=True)
    ids, labels = stacked("input_ids", pad), stacked("labels", IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def collator(model: Any, pad: int, packing: bool) -> Callable[[Sequence[dict]], dict[str, Tensor]]:
    """What makes a batch of examples.

    packing: one row [1, tokens] whose `position_ids` begin anew with each sample, no padding.
    Errors: `UserError` where the model would let a packed sample see another.
    """
    if not packing:
        return partial(collate, pad=pad if pad < input_rows(model) else 0)
    flatten = DataCollatorWithFlattening()
    require_apart(model, flatten)
    return lambda examples: dict(flatten(list(examples)))


@torch.no_grad()
def require_apart(model: Any, flatten: Callable[[list[dict]], dict[str, Any]]) -> None:
    """`UserError` unless packed samples have the logits that each has alone; tried, not believed.

    A model on the meta device is another process's copy: the one with the weights tries.
    """
    weight = model.get_input_embeddings().weight
    if weight.is_meta:
        return
    if hasattr(weight, "ds_shape"):
        raise UserError(
            "packing: it is tried before training, which ZeRO-3's parted weights do not allow; "
            "train without packing, or with FSDP2"
        )
    ids = torch.arange(sum(TRIED)) % (weight.shape[0] - 1) + 1
    rows = [row.tolist() for row in ids.split(TRIED)]
    packed = flatten([{"input_ids": row, "labels": row} for row in rows])
    del packed["labels"]
    training, _ = model.training, model.eval()
    given = {name: value.to(weight.device) for name, value in packed.items()}
    try:
        together = model(**given, use_cache=False).logits[0].float()
    except TypeError:
        raise UserError(
            f"packing: {type(model).__name__} takes no position ids, by which packed samples are "
            "told apart; train without packing"
        ) from None
    alone = torch.cat([
        model(input_ids=torch.tensor([row], device=weight.device), use_cache=False).logits[0]
        for row in rows
    ]).float()  # fmt: skip
    model.train(training)
    error = (together - alone).abs().max() / alone.abs().max()
    if not error <= TOLERANCES.get(weight.dtype, 1e-2):
        how = getattr(model.config, "_attn_implementation", "its attention")
        raise UserError(
            f"packing: {type(model).__name__} with {how} lets a packed sample see the one before "
            f"(logits differ by {error:.1e}); train without packing, or with another --attn"
        )

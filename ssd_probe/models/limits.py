"""How much a model can be given: token ids, and positions."""

from typing import Any, NamedTuple

from transformers import PreTrainedModel

from ssd_probe.models.tokens import stop_ids


class Limits(NamedTuple):
    """What a prompt and an answer have to keep to: known ids, the context, where answers end."""

    vocabulary: int
    context: int | None
    stops: set[int]


def limits_of(model: PreTrainedModel, tokenizer: Any) -> Limits:
    """Of a model; it may be one without weights, see `checkpoints.skeleton`."""
    stops = stop_ids(model.generation_config, tokenizer)
    return Limits(input_rows(model), context_length(model), stops)


def input_rows(model: PreTrainedModel) -> int:
    """How many token ids the model knows, also where DeepSpeed's ZeRO-3 has parted the weights."""
    weight: Any = model.get_input_embeddings().weight
    return getattr(weight, "ds_shape", weight.shape)[0]


def context_length(model: PreTrainedModel) -> int | None:
    """The longest sequence by the model's config, in tokens; None where it names none.

    YaRN stretches the original length by its factor, which some configs leave to the reader. Where
    learned positions count from the padding id on (Roberta), those up to it are no token's.
    """
    config = model.config.get_text_config()
    named = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    length = next((value for value in named if isinstance(value, int) and value > 0), None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if length and rope.get("rope_type", rope.get("type")) == "yarn":
        original = rope.get("original_max_position_embeddings") or length
        return max(length, int(original * rope.get("factor", 1)))
    rows = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return min(rows, default=length)

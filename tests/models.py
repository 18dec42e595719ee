"""Small random models of many architectures and a small tokenizer, built offline.

model = tiny_model("qwen3")         # or another of FAMILIES; float32, eval mode
tokenizer = tiny_tokenizer()        # byte-level BPE with ChatML, trained on this file
save(path, "llama")                 # both as a checkpoint directory
"""

import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

ARCHITECTURES = ("qwen3", "llama", "gpt_oss")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": 507,  # more rows than the tokenizer has tokens, and odd
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from uniform predictions
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
_GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
_QWEN3_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen3": (Qwen3Config, {}),
    "qwen3_moe": (Qwen3MoeConfig, _QWEN3_MOE),
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {"final_logit_softcapping": 3.0, "sliding_window": 16}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 16}),
    "gpt_oss": (GptOssConfig, {**_GPT_OSS, "rope_parameters": _YARN}),
    "granite": (GraniteConfig, {"logits_scaling": 8.0}),
    "cohere": (CohereConfig, {"logit_scale": 0.25}),
    "cohere2": (Cohere2Config, {"logit_scale": 0.25, "sliding_window": 16}),
    "phi": (PhiConfig, {}),  # a bias in its output layer
}


def tiny_model(architecture: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random float32 model in eval mode; the same weights for the same seed."""
    make, own = FAMILIES[architecture]
    config = make(**_SHAPE | own | overrides)
    torch.manual_seed(seed)
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}  # float64 too
    return AutoModelForCausalLM.from_config(config, **eager).float().eval()


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 384 tokens, so that many characters span several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [Path(__file__).read_text(), Path(textwrap.__file__).read_text()]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>")])  # as Qwen3: not special
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


def save(path: Path, architecture: str = "qwen3", **overrides: Any) -> Path:
    """Model and tokenizer as a Hugging Face checkpoint in `path`."""
    tiny_model(architecture, **overrides).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path

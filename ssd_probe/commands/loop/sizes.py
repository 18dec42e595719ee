"""How large a model is, from its config if that is here, else as assumed of the paper's models."""

from dataclasses import dataclass
from typing import Any

HALF, SINGLE = 2, 4  # bytes of bfloat16 and float32
ROW_BYTES = 700  # of a probe's position: 64 ids and logits, and its scalars, before compression
PROBLEMS = 131  # of LiveCodeBench v6, which the paper's presets are tested on
TRAINED = 4 * SINGLE  # a weight, its gradient, and AdamW's two moments, all float32


@dataclass(frozen=True)
class Size:
    """What memory follows from; `kv` is the width of keys (and of values) in a layer."""

    parameters: int
    layers: int
    hidden: int
    kv: int
    vocabulary: int
    single: bool = False  # its weights are float32, which `sample` and `probe` then keep

    @property
    def weights(self) -> int:
        """Bytes of the weights as they are loaded to sample."""
        return self.parameters * (SINGLE if self.single else HALF)

    def cache(self, tokens: int) -> int:
        """Bytes of keys and values of so many tokens."""
        return 2 * (SINGLE if self.single else HALF) * self.layers * self.kv * tokens

    def states(self, tokens: int) -> int:
        """Bytes of one hidden state a layer and token, bfloat16: what checkpointing keeps."""
        return HALF * self.layers * self.hidden * tokens

    def logits(self, tokens: int) -> int:
        """Bytes of so many rows of logits, float32."""
        return SINGLE * self.vocabulary * tokens


_QWEN_4B = Size(4_022_468_096, 36, 2560, 1024, 151_936)
_QWEN_30B = Size(30_532_122_624, 48, 2048, 512, 151_936)
ASSUMED = {  # of the published configs
    "meta-llama/Llama-3.1-8B-Instruct": Size(8_030_261_248, 32, 4096, 1024, 128_256),
    "Qwen/Qwen3-4B-Instruct-2507": _QWEN_4B,
    "Qwen/Qwen3-4B-Thinking-2507": _QWEN_4B,
    "apple/SimpleSD-4B-instruct": _QWEN_4B,
    "apple/SimpleSD-4B-thinking": _QWEN_4B,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": _QWEN_30B,
    "Qwen/Qwen3-30B-A3B-Thinking-2507": _QWEN_30B,
    "openai/gpt-oss-20b": Size(20_914_757_184, 24, 2880, 512, 201_088),
}


def size_of(model: str) -> tuple[Size | None, str]:
    """The size, and in words where it is from; None where neither files nor preset say it."""
    from ssd_probe.models.checkpoints import is_here, resolve_model

    if is_here(model):
        return _read(str(resolve_model(model))), "from its config"
    if model in ASSUMED:
        return ASSUMED[model], "assumed: its files are not here, and nothing is fetched"
    return None, "unknown: its files are not here"


def _read(folder: str) -> Size:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shape = text.num_hidden_layers, text.hidden_size, heads * width, text.vocab_size
    single = (config.dtype or torch.float32) == torch.float32
    return Size(sum(p.numel() for p in model.parameters()), *shape, single)


def amount(count: float) -> str:
    """Bytes or tokens with three digits: 64.4 G."""
    for unit in ("", " k", " M", " G", " T"):
        if count < 1000 or unit == " T":
            return f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError

"""How texts are probed: every setting of `probe`, its default and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ssd_probe.config_fields import check_limits, setting
from ssd_probe.errors import UserError

# Where and in how large pieces: numbers differ by less than `noise_floor` shows. What is added to a
# finished table. And what the digest of the texts' ids tells.
_UNRECORDED = {
    *("batch_size", "rows_per_chunk", "backend", "device", "verify", "noise_floor"),
    "special_tokens",
}


@dataclass(frozen=True)
class ProbeConfig:
    """The settings of `probe`; `UserError` "NAME = VALUE: ..." for one that is out of range.

    `top_k`: ranks kept a position. `max_length`, in tokens: a longer text (also one longer than the
    model's context) is cut there, or with `too_long` "skip" left out. `include_prompt`: also score
    the prompt's tokens. `special_tokens`: the name of one in a text (a completion or a source) is
    that token; else it is its letters. `dtype`, `attn`, `device`, `model_kwargs`: see `load_model`.
    `fp32_head`: output layer in float32 (on CPUs always). `batch_size` (texts), `rows_per_chunk`
    (positions of an unknown output layer): they bound memory. `backend`: see `position_stats`. Into
    a folder only: `verify`, so many random positions are computed again in float64 (see
    `trust.verify`; the record's `verified`); `noise_floor`, so many texts are scored again in other
    batches, for `compare`.
    """

    top_k: int = setting(64, "Ranks kept a position.", least=1)
    max_length: int | None = setting(None, "Longest text, in tokens.", least=2)
    too_long: Literal["truncate", "skip"] = setting("truncate", "What to do with longer texts.")
    include_prompt: bool = setting(False, "Score the prompt's tokens too.")
    special_tokens: bool = setting(False, "Special tokens named in a text are such, not letters.")
    batch_size: int = setting(8, "Texts at a time.", least=1)
    rows_per_chunk: int = setting(1024, least=1)
    backend: str = "auto"
    verify: int = setting(0, "Recompute so many positions in float64, report the error.", least=0)
    noise_floor: int = setting(0, "Score so many texts again, for `compare`.", least=0)
    dtype: str = setting("auto", "auto, float32, bfloat16, float16, float64.")
    attn: str | None = setting(None, "eager, sdpa, flash_attention_2 ...")
    fp32_head: bool = setting(False, "Output layer in float32 (on CPUs always).")
    device: str | None = setting(None, "cpu, cuda, cuda:1 ...; default: cuda if any.")
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_limits(self)
        if self.too_long not in ("truncate", "skip"):
            raise UserError(f"too_long {self.too_long!r}: choose truncate or skip")

    def recorded(self) -> dict[str, Any]:
        """The settings that the table's numbers depend on, as JSON takes them."""
        names = [each.name for each in fields(self) if each.name not in _UNRECORDED]
        kwargs = {name: str(value) for name, value in self.model_kwargs.items()}
        return {name: getattr(self, name) for name in names} | {"model_kwargs": kwargs}

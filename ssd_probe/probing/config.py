"""How texts are probed: every setting of `probe`, its default and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ssd_probe.errors import UserError

_AT_LEAST = {
    **{"top_k": 1, "batch_size": 1, "rows_per_chunk": 1, "max_length": 2},
    **{"verify": 0, "noise_floor": 0},
}
# Where and in how large pieces: numbers differ by less than `noise_floor` shows. And what is added
# to a finished table.
_UNRECORDED = {"batch_size", "rows_per_chunk", "backend", "device", "verify", "noise_floor"}


def _flag(default: Any, text: str) -> Any:
    """A field that is also a flag of `ssd-probe probe`, with its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ProbeConfig:
    """The settings of `probe`; `UserError` "NAME = VALUE: ..." for one that is out of range.

    `top_k`: ranks kept a position. `max_length`, in tokens: a longer text (also one longer than the
    model's context) is cut there, or with `too_long` "skip" left out. `include_prompt`: also score
    the prompt's tokens. `dtype`, `attn`, `device`, `model_kwargs`: see `load_model`. `fp32_head`:
    output layer in float32 (on CPUs always). `batch_size` (texts), `rows_per_chunk` (positions of
    an unknown output layer): they bound memory. `backend`: see `position_stats`. Into a folder
    only: `verify`, so many random positions are computed again in float64 (see `trust.verify`; the
    record's `verified`); `noise_floor`, so many texts are scored again in other batches, for
    `compare`.
    """

    top_k: int = _flag(64, "Ranks kept a position.")
    max_length: int | None = _flag(None, "Longest text, in tokens.")
    too_long: Literal["truncate", "skip"] = _flag("truncate", "What to do with longer texts.")
    include_prompt: bool = _flag(False, "Score the prompt's tokens too.")
    batch_size: int = _flag(8, "Texts at a time.")
    rows_per_chunk: int = 1024
    backend: str = "auto"
    verify: int = _flag(0, "Recompute so many positions in float64 and report the error.")
    noise_floor: int = _flag(0, "Score so many texts again in other batches, for `compare`.")
    dtype: str = _flag("auto", "auto, float32, bfloat16, float16, float64.")
    attn: str | None = _flag(None, "eager, sdpa, flash_attention_2 ...")
    fp32_head: bool = _flag(False, "Output layer in float32 (on CPUs always).")
    device: str | None = _flag(None, "cpu, cuda, cuda:1 ...; default: cuda if any.")
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} = {value}: must be at least {least}")
        if self.too_long not in ("truncate", "skip"):
            raise UserError(f"too_long {self.too_long!r}: choose truncate or skip")

    def recorded(self) -> dict[str, Any]:
        """The settings that the table's numbers depend on, as JSON takes them."""
        names = [each.name for each in fields(self) if each.name not in _UNRECORDED]
        kwargs = {name: str(value) for name, value in self.model_kwargs.items()}
        return {name: getattr(self, name) for name in names} | {"model_kwargs": kwargs}

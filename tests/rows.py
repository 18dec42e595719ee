"""Rows of logits that a backend may get wrong, each from a short recipe; `corpus` has many.

In the message of a failure a row is `Row(...)`; `Row(...).build(size, dtype)` makes it again.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd_probe.kernels.cpu.pair import BLOCK as PAIR_BLOCK
from ssd_probe.kernels.cpu.stats import BLOCK
from ssd_probe.kernels.gpu.scan import LANES, SEGMENT, STEPS
from tests.interpreter import INTERPRETED

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of logits: a thread's load, a block on CPUs, all lanes' loads, what they take at once, a segment.
PERIODS = tuple(sorted({
    4, 8, BLOCK, PAIR_BLOCK, 4 * LANES.value, 8 * LANES.value, 4 * STEPS * LANES.value, SEGMENT,
}))  # fmt: skip
REAL = Path(__file__).with_name("data") / "smollm2_logits.npz"

BASES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "random": lambda n, g: 3 * torch.randn(n, generator=g),
    "ties": lambda n, g: (3 * torch.randn(n, generator=g)).round(),
    "rounded to bfloat16": lambda n, g: (3 * torch.randn(n, generator=g)).bfloat16().float(),
    "cubed": lambda n, g: (3 * torch.randn(n, generator=g)) ** 3,
    "rising": lambda n, g: torch.arange(n) * (20 / n),
    "falling": lambda n, g: torch.arange(n) * (-20 / n),
    "identical": lambda n, g: torch.full((n,), 2.5),
    "two values": lambda n, g: (torch.rand(n, generator=g) < 0.02).float(),
    "zeros of both signs": lambda n, g: torch.where(torch.arange(n) % 2 == 0, 0.0, -0.0),
    "one hot": lambda n, g: torch.where(torch.arange(n) == _place(n, g), 100.0, 0.0),
    "lock": lambda n, g: (torch.randn(n, generator=g) - 30).index_fill(0, _place(n, g), 0.0),
    "outlier first": lambda n, g: torch.where(torch.arange(n) == 0, 0.0, -6.0),
    "best last": lambda n, g: torch.where(torch.arange(n) >= n - 3, 1.0, 0.0),
    "subnormal": lambda n, g: 1e-40 * torch.randn(n, generator=g),
    "huge": lambda n, g: 1e30 * torch.randn(n, generator=g),
    "near the largest": lambda n, g: torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    * torch.finfo(torch.float32).max * (1 - torch.rand(n, generator=g) ** 8),
    "every magnitude": lambda n, g: torch.randn(n, generator=g).sign()
    * 10 ** (76 * torch.rand(n, generator=g) - 38),
}  # fmt: skip
PERIODIC: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {  # size, period
    "period": lambda n, p, g: (3 * torch.randn(p, generator=g)).repeat(n // p + 1)[:n],
    "saw-tooth": lambda n, p, g: (torch.arange(n) % p).float(),
    "runs of": lambda n, p, g: torch.randn(n // p + 1, generator=g).repeat_interleave(p)[:n],
    "ties across borders of": lambda n, p, g: torch.where(
        (torch.arange(n) + 3) % p < 6, 5.0, torch.randn(n, generator=g)
    ),
    "best at the start of": lambda n, p, g: torch.where(
        torch.arange(n) % p < 4, 4 + 0.01 * torch.randn(n, generator=g), torch.randn(n, generator=g)
    ),
    "best in one": lambda n, p, g: torch.randn(n, generator=g)
    + 4 * (torch.arange(n) // p == n // p // 2),
    "real": lambda n, i, g: torch.from_numpy(real_rows()[i % len(real_rows())])
    .float().repeat(n // real_rows().shape[1] + 1)[:n],
}  # fmt: skip
MASKS = (-torch.inf, -1e4, -6e4, -1e9, -1e10, -1e15, -1e30, -2.3e38,
         *(torch.finfo(dtype).min for dtype in DTYPES))  # fmt: skip
MASKED: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "few": lambda n, g: torch.rand(n, generator=g) < 0.01,
    "many": lambda n, g: torch.rand(n, generator=g) < 0.9,
    "all but one": lambda n, g: torch.arange(n) != _place(n, g),
    "all but nine": lambda n, g: torch.arange(n) >= 9,
    "first half": lambda n, g: torch.arange(n) < n // 2,
    "last third": lambda n, g: torch.arange(n) >= n // 3 * 2,
    "every second": lambda n, g: torch.arange(n) % 2 == 0,
    "all": lambda n, g: torch.ones(n, dtype=torch.bool),
}
# Bits of NaN of both signs, quiet and signalling, and of +inf, in float32 and in two bytes.
BAD = {
    "NaN": (0x7FC00000, 0x7FC0, 0x7E00), "-NaN": (0xFFC00000, 0xFFC0, 0xFE00),
    "least NaN": (0x7F800001, 0x7F81, 0x7C01), "least -NaN": (0xFF800001, 0xFF81, 0xFC01),
    "last NaN": (0x7FFFFFFF, 0x7FFF, 0x7FFF), "last -NaN": (0xFFFFFFFF, 0xFFFF, 0xFFFF),
    "+inf": (0x7F800000, 0x7F80, 0x7C00),
}  # fmt: skip
PLACES = {"first": lambda n: 0, "middle": lambda n: n // 2, "last": lambda n: n - 1}


def _place(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(size, (1,), generator=generator)


@functools.cache
def real_rows() -> np.ndarray:
    """[10, 49152] float16: see the file's own `provenance`."""
    with np.load(REAL) as data:
        return data["logits"]


@dataclass(frozen=True, repr=False)
class Row:
    """`base` (of `BASES`, or of `PERIODIC` with a number), then scale, shift and noise, then `mask`
    in the places `masked`, then `bad` at one place."""

    base: str = "random"
    seed: int = 0
    scale: float = 1.0
    shift: float = 0.0
    noise: float = 0.0
    mask: float | None = None
    masked: str = "many"
    bad: str | None = None
    place: str = "last"

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"Row({', '.join(f'{n}={v!r}' for n, v, default in given if v != default)})"

    def build(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[size], on the CPU; below what float16 holds it is -inf there, above its largest."""
        with torch.device("cpu"):
            return self._spoilt(self._values(size).to(dtype).clamp_(max=torch.finfo(dtype).max))

    def _values(self, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        name, _, number = self.base.rpartition(" ")
        if name in PERIODIC:
            x = PERIODIC[name](size, int(number), generator)
        else:
            x = BASES[self.base](size, generator)
        x = x * self.scale + self.shift
        if self.noise:
            x = x + self.noise * torch.randn(size, generator=generator)
        if self.mask is not None:
            x = x.masked_fill(MASKED[self.masked](size, generator), self.mask)
        return x

    def _spoilt(self, x: Tensor) -> Tensor:
        if self.bad:
            bits = torch.tensor(BAD[self.bad][DTYPES.index(x.dtype)])
            integers = x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
            integers[PLACES[self.place](len(x))] = bits.to(integers.dtype)
        return x


def buildable(row: Row, dtype: torch.dtype) -> bool:
    """Triton's interpreter, not the compiler, widens subnormal bfloat16 wrongly."""
    return not (INTERPRETED and dtype == torch.bfloat16 and row.base == "subnormal")


def corpus(size: int, dtype: torch.dtype = torch.float32) -> dict[Row, Tensor]:
    """Rows [size] of `dtype` by their recipes."""
    return {row: row.build(size, dtype) for row in RECIPES}


RECIPES = (
    *(Row(base) for base in BASES),
    *(Row(f"{base} {period}") for base in PERIODIC for period in PERIODS if base != "real"),
    *(Row(f"real {i}") for i in range(10)),
    *(Row(scale=scale, shift=shift) for scale, shift in
      ((40, 0), (1e-3, 0), (500, 0), (1, 1e4), (1, -1e4), (1, 1e30), (1e-3, 1e38))),
    *(Row(mask=mask, masked=masked, seed=i)
      for i, mask in enumerate(MASKS) for masked in MASKED),
    *(Row(base, mask=mask) for base in ("ties", "lock", f"period {PERIODS[4]}", "real 3")
      for mask in (-torch.inf, -1e10, torch.finfo(torch.float32).min)),
    *(Row(bad=bad, place=place) for bad in BAD for place in PLACES),
    *(Row(bad=bad, place="middle", mask=mask, masked=masked) for bad in BAD
      for mask in (-torch.inf, -1e10, torch.finfo(torch.float32).min)
      for masked in ("many", "all but nine", "first half", "all")),
)  # fmt: skip

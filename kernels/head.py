"""Output layers, and statistics of the next-token distributions straight from hidden states."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose, measure
from ssd_probe.kernels.closing import target_fields
from ssd_probe.kernels.cpu.threads import without_lost_threads
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.stats import DTYPES, check, check_gradient

ROWS = 1024  # hidden states that share one float32 copy of a chunk of the weight, on the CPU
CHUNK_ELEMENTS = 2**22  # of that copy, and of its logits: 16 MB each
UNIT = 2.0**-24  # a float32 rounding, relative
TARGETS = 128  # rows whose targets' rows of the weight exist at once
LOGITS_BYTES = 2**28  # of the logits of a chunk of rows, elsewhere


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """An output layer: `weight` [V, D], `bias` [V] or None, `scale`, `softcap` or None.

    z = cap * tanh(scale * (W h + b) / cap);  without a cap  z = scale * (W h + b)
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def rows(self, ids: slice) -> Head:
        """The same for these ids alone."""
        bias = None if self.bias is None else self.bias[ids]
        return dataclasses.replace(self, weight=self.weight[ids], bias=bias)

    def in_float32(self) -> Head:
        """The same with a float32 weight: a copy of [V, D], and products in float32 on GPUs."""
        bias = None if self.bias is None else self.bias.float()
        return dataclasses.replace(self, weight=self.weight.float(), bias=bias)

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, V] of hidden states [n, D], in the weight's dtype and on its device."""
        hidden = hidden.to(self.weight)
        if self.bias is None:
            return self.finish(torch.mm(hidden, self.weight.T, out=out))
        return self.finish(torch.addmm(self.bias.to(hidden), hidden, self.weight.T, out=out))

    def wide_logits(self, hidden: Tensor) -> Tensor:
        """`logits`; in float32, as they were added up, where a 16-bit product can give them so.

        Rounded to bfloat16, logits of 16 to 32 are multiples of 1/8: ties that the model never had.
        """
        if not _keeps_float32(self.weight):
            return self.logits(hidden)
        z = torch.mm(hidden.to(self.weight), self.weight.T, out_dtype=torch.float32)
        return self.finish(z if self.bias is None else z.add_(self.bias))

    def of_targets(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's target's logit [n], float64, and how far a float32 product may be off it.

        |rounding| <= 2 u sqrt(D) (|w h| + |w * h|_2),  u = 2^-24: largest seen 1.7 of the 2
        """
        z, norm = map(torch.cat, zip(*(
            ((product := h.double() * self.weight[t].double()).sum(-1), product.norm(dim=-1))
            for h, t in zip(hidden.split(TARGETS), targets.split(TARGETS), strict=True)
        ), strict=True))  # fmt: skip
        error = 2 * hidden.shape[1] ** 0.5 * (z.abs() + norm)
        if self.bias is not None:
            bias = self.bias[targets].double()
            z, error = z + bias, error + 4 * bias.abs()
        z = self.finish(z)
        error = abs(self.scale) * error + 4 * z.abs()
        return z, UNIT * (error if self.softcap is None else error + 4 * self.softcap)

    def stats(self, hidden: Tensor, targets: Tensor, top_k: int, backend: str) -> PositionStats:
        """`lm_head_stats` of hidden states [N, D], on the layer's device."""
        device = self.weight.device
        return lm_head_stats(
            hidden.to(device), self.weight, bias=self.bias, scale=self.scale,
            softcap=self.softcap, top_k=top_k, targets=targets.to(device), backend=backend,
        )  # fmt: skip

    def finish(self, z: Tensor) -> Tensor:
        """From W h + b to z, in its memory where no gradient is wanted."""
        if z.requires_grad:
            z = z * self.scale
            return z if self.softcap is None else (z / self.softcap).tanh() * self.softcap
        if self.scale != 1:
            z *= self.scale
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z


@without_lost_threads()
def lm_head_stats(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> PositionStats:
    """`position_stats` of an output layer's logits, of which only a chunk ever exists.

        z = scale * (hidden @ weight.T + bias);  with a soft cap, z = cap * tanh(z / cap)

    `hidden` [..., D], `weight` [V, D], `bias` [V]; the other arguments are those of
    `position_stats`. The extra memory does not grow with N. On the CPU all is computed in float32
    whatever the dtypes, rows and vocabulary in chunks; elsewhere the product is of the weight's
    dtype, added up and kept in float32 (`Head.wide_logits`), rows in chunks. On the CPU the rank of
    a target beyond rank K is counted against its own dot product: logits within the rounding of
    such products count as equal to it, so that equal rows of the weight tie.

    Errors: `UserError` for a wrong kind, shape, dtype, range or backend, and for tensors whose
    gradient is recorded.
    Source: design section 2.
    """
    _check_layer(hidden, weight, bias, scale, softcap)
    shape = *hidden.shape[:-1], len(weight)
    top_k, temperatures, targets = check(
        shape, top_k, temperatures, targets, vocab_size, hidden.device
    )
    name, _ = choose(backend, hidden.device, top_k)
    softcap = None if softcap == math.inf else softcap
    head = Head(weight, bias, scale, softcap).rows(slice(vocab_size))
    with torch.no_grad():
        rows = hidden.reshape(-1, hidden.shape[-1])
        return _in_row_chunks(rows, head, top_k, temperatures, targets, name)


def _check_layer(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> None:
    if hidden.ndim < 1 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        raise UserError(f"hidden and weight of shapes {shapes}: must be [..., D] and [V, D]")
    if len(weight) == 0:
        raise UserError(f"weight of shape {tuple(weight.shape)}: must be [V, D] with V >= 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UserError(f"bias of shape {tuple(bias.shape)}: must be [{weight.shape[0]}]")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise UserError(f"{name} of {tensor.dtype}: must be of floating point")
        if tensor.dtype not in DTYPES and hidden.device.type != "cpu":
            raise UserError(f"{name} of {tensor.dtype}: must be float32, bfloat16 or float16")
        if tensor.device != hidden.device:
            raise UserError(f"{name} on {tensor.device}: must be on {hidden.device}, as hidden")
        check_gradient(name, tensor)
    if not math.isfinite(scale):
        raise UserError(f"scale = {scale}: must be finite")
    if softcap is not None and not softcap > 0:
        raise UserError(f"softcap = {softcap}: must be > 0, or None for no cap")


def _in_row_chunks(
    hidden: Tensor, head: Head, top_k: int, temperatures: tuple[float, ...],
    targets: Tensor | None, backend: str,
) -> PositionStats:  # fmt: skip
    """Hidden states [N, D] in, as many at a time as the memory for a chunk's logits allows."""
    on_cpu = hidden.device.type == "cpu"
    if backend != "cpu" and on_cpu:
        head = head.in_float32()
    dtype = torch.float32 if on_cpu else head.weight.dtype
    rows = max(1, LOGITS_BYTES // (len(head.weight) * torch.float32.itemsize))
    rows = ROWS if backend == "cpu" else rows
    buffers = _Buffers()

    def parts() -> Iterator[PositionStats]:
        for start in range(0, max(len(hidden), 1), rows):  # one empty step for N = 0
            h = hidden[start : start + rows].to(dtype)
            wanted = None if targets is None else targets[start : start + rows]
            if backend == "cpu":
                yield _in_vocabulary_chunks(h, head, buffers, top_k, temperatures, wanted)
            else:
                yield measure(head.wide_logits(h), top_k, temperatures, wanted, None, backend)

    return PositionStats.collect(parts(), len(hidden))


def _keeps_float32(weight: Tensor) -> bool:
    """Whether `torch.mm` of it takes `out_dtype` (PyTorch 2.8: CUDA and HIP)."""
    return weight.device.type == "cuda" and weight.dtype in (torch.bfloat16, torch.float16)


class _Buffers:
    """Memory for a chunk's weight and logits: one of each, as the allocator would keep several."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None  # both as large as the first, which is the largest
        self._logits: Tensor | None = None

    def logits(self, head: Head, hidden: Tensor) -> Tensor:
        """`head.logits` in the dtype of `hidden`, which the next call overwrites."""
        weight = head.weight
        if weight.dtype != hidden.dtype:
            if self._weight is None:
                self._weight = torch.empty_like(weight, dtype=hidden.dtype)
            widened = self._weight[: len(weight)].copy_(weight)
            head = dataclasses.replace(head, weight=widened)
        shape = len(hidden), len(weight)
        if self._logits is None:
            self._logits = hidden.new_empty(shape[0] * shape[1])
        return head.logits(hidden, out=self._logits[: shape[0] * shape[1]].view(shape))


def _in_vocabulary_chunks(
    hidden: Tensor, head: Head, buffers: _Buffers, top_k: int,
    temperatures: tuple[float, ...], targets: Tensor | None,
) -> PositionStats:  # fmt: skip
    """On the CPU: [n, D] float32 in, one product of [n, chunk] logits after another."""
    from ssd_probe.kernels.cpu import stats as cpu  # numba: see `position_stats`

    rows, width = hidden.shape
    vocabulary = len(head.weight)
    size = max(cpu.BLOCK, CHUNK_ELEMENTS // max(width, ROWS) // cpu.BLOCK * cpu.BLOCK)
    state = cpu.State(rows, top_k, temperatures)
    if targets is not None:
        # Known before their chunk's turn comes; -100 has no logit, and takes that of id 0.
        than, error = head.of_targets(hidden, targets.clamp(min=0))
        low, high = (than - error).float(), (than + error).float()
        value, counts = than.float(), torch.zeros_like(targets)
    for first in range(0, vocabulary, size):
        ids = slice(first, min(first + size, vocabulary))
        z = buffers.logits(head.rows(ids), hidden)
        state.update(z, first)
        if targets is not None:
            cpu.count_before(z, first, low, high, targets, counts)
            here = ((targets >= first) & (targets < ids.stop)).nonzero()[:, 0]
            value[here] = z[here, targets[here] - first]
    stats = state.finish()
    if targets is not None:
        target_fields(stats, targets, value, lambda rare: counts[rare].clamp(min=top_k) + 1)
    return stats

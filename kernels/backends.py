"""Which backend computes, and why; and its statistics of checked arguments."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.cpu.threads import without_lost_threads
from ssd_probe.kernels.results import PositionStats

BACKENDS = ("auto", "triton", "cpu", "torch")
TRITON_TOP_K = 128  # what the finalising kernel holds in registers


def choose(backend: str, device: torch.device, top_k: int = 64) -> tuple[str, str]:
    """The name of the backend for a tensor on `device`, and the reason in words.

    "auto": Triton on CUDA and HIP, numba ("cpu") on the CPU, else torch, which runs on every device
    that computes in float64 (Apple's GPUs do not).
    Errors: `UserError` where the backend that is asked for cannot run there.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
    if not _has_float64(device):
        raise UserError(
            f"the tensors are on {device.type}, which has no float64; give .cpu() of them"
        )
    if backend == "torch":
        return "torch", "asked for"
    on_gpu = device.type == "cuda"  # also what torch calls a HIP device
    if backend == "triton" or (backend == "auto" and on_gpu):
        obstacle = _triton_obstacle(on_gpu, top_k)
        if not obstacle:
            return "triton", "asked for" if backend == "triton" else f"{device.type} tensors"
    else:
        obstacle = _numba_obstacle(device)
        if not obstacle:
            return "cpu", "asked for" if backend == "cpu" else "CPU tensors"
    if backend == "auto":
        return "torch", obstacle
    raise UserError(f"backend = {backend!r}: {obstacle}; use backend='torch'")


@without_lost_threads()
def run(
    logits: Tensor,
    top_k: int,
    temperatures: tuple[float, ...],
    targets: Tensor | None,
    vocab_size: int | None,
    backend: str,
) -> PositionStats:
    """`position_stats` of arguments that were checked, `targets` being [N]."""
    name, _ = choose(backend, logits.device, top_k)
    return measure(logits, top_k, temperatures, targets, vocab_size, name)


def measure(
    logits: Tensor,
    top_k: int,
    temperatures: tuple[float, ...],
    targets: Tensor | None,
    vocab_size: int | None,
    backend: str,
) -> PositionStats:
    """`run` by that backend."""
    # Imported when called: Triton and numba take time, and may be missing.
    if backend == "triton":
        from ssd_probe.kernels.gpu.stats import position_stats as backend_stats
    elif backend == "cpu":
        from ssd_probe.kernels.cpu.stats import position_stats as backend_stats
    else:
        from ssd_probe.kernels.eager import position_stats as backend_stats

    if vocab_size is not None:
        logits = logits[..., :vocab_size]

    def parts() -> Iterator[PositionStats]:
        done = 0
        for x in _matrices(logits):
            wanted = None if targets is None else targets[done : done + len(x)]
            done += len(x)
            yield backend_stats(x, top_k, temperatures, wanted)

    with torch.no_grad():
        return PositionStats.collect(parts(), math.prod(logits.shape[:-1]))


def _matrices(logits: Tensor) -> Iterator[Tensor]:
    """The rows of [..., V] in order, as [n, V] in the memory where they lie: one, where it can."""
    try:
        matrix = logits.view(-1, logits.shape[-1])
    except RuntimeError:  # no single stride leads from each row to the next
        for part in logits:
            yield from _matrices(part)
    else:
        yield matrix


def _has_float64(device: torch.device) -> bool:
    """Whether the formulas can be computed there; Triton's, on CUDA and HIP, always can."""
    if device.type in ("cpu", "cuda", "meta"):
        return True
    try:
        return bool(torch.ones(1, dtype=torch.float64, device=device).log1p().isfinite())
    except (TypeError, RuntimeError, AssertionError):
        return False


def _triton_obstacle(on_gpu: bool, top_k: int) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        return "the tensors are not on a GPU"
    if top_k > TRITON_TOP_K:
        return f"the Triton kernels keep at most {TRITON_TOP_K} ranks, top_k = {top_k}"
    return ""


def _numba_obstacle(device: torch.device) -> str:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return "" if device.type == "cpu" else f"the tensors are on {device.type}, not on the CPU"

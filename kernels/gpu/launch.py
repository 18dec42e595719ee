"""How every kernel is launched: on the device of its tensors, with the same options."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ssd_probe.kernels.gpu.scan import LANES


@functools.cache
def warp(device: torch.device) -> int:
    """Threads that a warp of the device has: 64 on CDNA, else 32."""
    return torch.cuda.get_device_properties(device).warp_size if torch.version.hip else 32


def launch(
    kernel: Any, grid: tuple[int, ...], tensor: Tensor, *arguments: Any,
    threads: int = LANES.value, **options: Any,
) -> None:  # fmt: skip
    """Run `kernel` on the device of `tensor`, its first argument, whichever is the current one."""
    with torch.cuda.device_of(tensor):
        kernel[grid](
            tensor, *arguments, enable_fp_fusion=True,
            num_warps=threads // warp(tensor.device), **options,
        )  # fmt: skip

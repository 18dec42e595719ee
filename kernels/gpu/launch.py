"""How every kernel is launched: on the device of its tensors, with the same options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssd_probe.kernels.gpu.scan import LANES

WARP = 64 if torch.version.hip else 32


def launch(
    kernel: Any, grid: tuple[int, ...], tensor: Tensor, *arguments: Any,
    threads: int = LANES.value, **options: Any,
) -> None:  # fmt: skip
    """Run `kernel` on the device of `tensor`, its first argument, whichever is the current one."""
    with torch.cuda.device_of(tensor):
        kernel[grid](
            tensor, *arguments, num_warps=threads // WARP, enable_fp_fusion=True, **options
        )

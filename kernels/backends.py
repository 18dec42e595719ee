"""Which backend computes, and why."""

from __future__ import annotations

import importlib.util
import os

import torch

from ssd_probe.errors import UserError

BACKENDS = ("auto", "triton", "cpu", "torch")
TRITON_TOP_K = 128  # what the finalising kernel holds in registers


def choose(backend: str, device: torch.device, top_k: int = 64) -> tuple[str, str]:
    """The name of the backend for a tensor on `device`, and the reason in words.

    "auto": Triton on CUDA and HIP, numba ("cpu") on the CPU, else torch, which runs anywhere.
    Errors: `UserError` where the backend that is asked for cannot run there.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
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

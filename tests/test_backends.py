"""The choice of a backend, and its reasons."""

import importlib.util

import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.kernels import backends
from ssd_probe.kernels.backends import choose

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.mark.parametrize(("asked", "device", "top_k", "name", "reason"), [
    ("auto", CPU, 64, "cpu", "CPU tensors"),
    ("auto", CUDA, 64, "triton", "cuda tensors"),
    ("auto", CUDA, 200, "torch", "the Triton kernels keep at most 128 ranks, top_k = 200"),
    ("torch", CUDA, 64, "torch", "asked for"),
    ("triton", CUDA, 64, "triton", "asked for"),
])  # fmt: skip
def test_choice(asked, device, top_k, name, reason):
    assert choose(asked, device, top_k) == (name, reason)


def test_without_the_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose("auto", CPU) == ("torch", "numba is not installed")
    assert choose("auto", CUDA) == ("torch", "triton is not installed")


def test_other_devices_that_compute_in_float64(monkeypatch):
    monkeypatch.setattr(backends, "_has_float64", lambda device: True)
    assert choose("auto", MPS) == ("torch", "the tensors are on mps, not on the CPU")


@pytest.mark.parametrize(("asked", "device", "top_k", "message"), [
    ("auto", MPS, 64, "^the tensors are on mps, which has no float64; give .cpu\\(\\) of them$"),
    ("torch", MPS, 64, "no float64"),
    ("fast", CPU, 64, "must be one of auto, triton, cpu, torch"),
    ("triton", CPU, 64, "not on a GPU; use backend='torch'"),
    ("triton", CUDA, 129, "at most 128 ranks"),
    ("cpu", CUDA, 64, "the tensors are on cuda"),
])  # fmt: skip
def test_refusals(asked, device, top_k, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match=message):
        choose(asked, device, top_k)

"""Every test runs offline, on one seed, and with uninitialised memory poisoned."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.interpreter import INTERPRETED, patch_once

if INTERPRETED:
    patch_once()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poison_empty():
    """`torch.empty` returns NaN, so that a kernel which forgets to write an element is caught."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A demo of reduced size, large enough for the direction of its effects: folder, summary."""
    from ssd_probe.commands.demo import DemoConfig, demo_stage

    config = DemoConfig(
        prompts=2_400,
        temperatures=(1.3, 1.6, 1.9),
        dev_problems=60,
        dev_samples=2,
        test_problems=150,
        test_samples=10,
        probed_programs=90,
    )
    out = tmp_path_factory.mktemp("demo") / "run"
    said: list[str] = []
    summary = demo_stage(out, config, said.append)
    return out, summary, config, "\n".join(said)

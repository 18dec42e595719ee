"""What is in the environment: before torch loads, and of the caller's in the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_probe.cli.app import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_idle_threads_sleep_unless_a_person_says_otherwise(monkeypatch, capsys, own):
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "--help"])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")


def test_the_openmp_of_torch_goes_by_it():
    """With `OMP_DISPLAY_ENV`, GCC's library prints as it loads how often an idle thread looks."""
    code = (
        "import sys; from ssd_probe.cli.environment import prepare; prepare()\n"
        "assert 'torch' not in sys.modules; import torch\n"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in said.stderr:
        pytest.skip("this OpenMP does not say")
    assert "GOMP_SPINCOUNT = '0'" in said.stderr


def test_the_callers_ranks_threads_and_screen_count_for_nothing():
    code = (
        "import os, sys; import tests.conftest; assert 'torch' not in sys.modules\n"
        "print(*(os.environ.get(n) for n in sys.argv[1:]))"
    )
    foreign = {"RANK": "1", "WORLD_SIZE": "4", "MPLBACKEND": "none", "OMP_NUM_THREADS": "64",
               "SSD_PROBE_RUN": "mine", "SSD_PROBE_KILLS": "7"}  # fmt: skip
    command = [sys.executable, "-c", code, *foreign]
    environment = os.environ | foreign
    said = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["None", "None", "Agg", "1", "None", "7"]

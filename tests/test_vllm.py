"""vLLM itself, in an environment of its own: `make test-vllm` (SSD_PROBE_TEST_VLLM names it).

Offline and as a server on the loopback: conformance, seeds, kills. Skipped where it is not.
"""

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.sampling.conformance import conformance_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.core.requests import read_part
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.engines.vllm import python_of
from ssd_probe.errors import Failed, UserError
from ssd_probe.models.checkpoints import bundled_checkpoint
from ssd_probe.models.identity import Checkpoint
from tests.models import save, tiny_tokenizer

PLACE = os.environ.get("SSD_PROBE_TEST_VLLM", "")
DECODINGS = [Decoding(1.6, 20, 0.8), Decoding(0.7, 10, 0.95), Decoding(2.0, 0, 1.0)]
CONFIG = SampleConfig(n=2, max_new_tokens=24, seed=3)
EAGER = ("enforce_eager=true",)
needs_vllm = pytest.mark.skipif(not PLACE, reason="no vLLM; `make test-vllm` installs it")
pytestmark = [pytest.mark.xdist_group("vllm")]


@pytest.fixture(autouse=True)
def _there(monkeypatch):
    monkeypatch.setenv("SSD_PROBE_VLLM", PLACE or "/nowhere")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="module")
def tiny():
    return Checkpoint("tiny")


@pytest.fixture(scope="module")
def offline(tiny):
    """One loaded engine for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_PROBE_VLLM", PLACE)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        engine = engine_of(Choice("vllm", arguments=EAGER), tiny, 256)
        engine.about(DECODINGS[0])
        yield engine


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`vllm serve` of the bundled checkpoint, on the loopback."""
    log = tmp_path_factory.mktemp("served") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_PROBE_VLLM", PLACE)
        with serving(bundled_checkpoint(), log) as (url, _):
            yield url


@contextmanager
def serving(model, log, port=0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    # `vllm serve` itself asks for a package named vllm, which vllm-cpu is not.
    command = [str(python_of()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--dtype", "float32", "--enforce-eager"]
    command += ["--no-enable-chunked-prefill"]  # see engines/vllm_worker.py
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("ab") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, env=env)
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()


def wait_for(port, process, log, seconds=900):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        with socket.socket() as asked:
            asked.settimeout(1)
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(1)
    raise TimeoutError(log.read_text()[-2000:])


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
    from ssd_probe.core.sample import sample_to_file
    from ssd_probe.problems.prompts import read_prompts

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
@pytest.mark.parametrize("engine", ["vllm", "server"])
def test_vllm_draws_what_is_declared(engine, decoding, tiny, offline, request, monkeypatch):
    from ssd_probe.commands.sampling import conformance

    choice = Choice("vllm", arguments=EAGER)
    if engine == "server":
        choice = Choice("server", (request.getfixturevalue("served"),))
    else:
        monkeypatch.setattr(conformance, "engine_of", lambda *_: offline)
    certificate = conformance_stage(tiny, decoding, choice, draws=20_000)
    assert certificate["passed"] and certificate["repeatable"]


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load, twice")
def test_a_real_server_killed_in_the_middle_and_started_again(tmp_path, tiny):
    config, path = SampleConfig(n=8, max_new_tokens=64, seed=3, batch_size=2), tmp_path / "s.jsonl"
    part, log = tmp_path / "s.jsonl.part", tmp_path / "log"
    with ThreadPoolExecutor(1) as pool:
        with serving(bundled_checkpoint(), log) as (url, process):
            running = pool.submit(sample, path, tiny, Choice("server", (url,)), config)
            while len(read_part(part, mend=False)) < 3:
                time.sleep(0.1)
            assert not running.done()
            process.kill()
            process.wait()
            kept = read_part(part, mend=False)
        with serving(bundled_checkpoint(), log, int(url.rpartition(":")[2])):
            rows = running.result()
    keys = [(row["problem_id"], i % 8) for i, row in enumerate(rows)]
    assert len({*keys}) == len(rows) == 32
    assert all(rows[keys.index(key)]["completion_ids"] == kept[key].ids for key in kept)


@needs_vllm
@pytest.mark.slow(reason="vLLM takes a minute to load")
def test_another_tokenizer_behind_a_real_server(tmp_path, served):
    other = tmp_path / "other"
    save(other)
    assert tiny_tokenizer().get_vocab() != Checkpoint("tiny").tokenizer.get_vocab()
    with pytest.raises(UserError, match="another tokenizer"):
        sample(tmp_path / "s.jsonl", Checkpoint(str(other)), Choice("server", (served,)))

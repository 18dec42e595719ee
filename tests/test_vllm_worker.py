"""vLLM's process: its end with whoever started it, and what it says; a stand-in plays vLLM."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ssd_probe.core.requests import Request
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.engines.vllm import PACKAGE
from ssd_probe.errors import Resumable, UserError
from ssd_probe.models.identity import Checkpoint
from tests.fake_vllm import environment

DECODING, MANY = Decoding(1.6, 20, 0.8), 20_000  # requests: more than pipes hold
STARTS = """
import sys, time
from ssd_probe.engines.vllm import Worker, python_of
worker = Worker(python_of(), {"model": "m", "arguments": {}, "window": 4})
ask = {"place": 0, "ids": [1] * 50, "params": {"n": 2}}
for _ in worker.ask(iter([{**ask, "place": i} for i in range(20_000)]), 20_000):
    print("answered", flush=True)
"""


STARTS_RIVAL = STARTS.replace("python_of\n", "python_of\nfrom ssd_probe.policies.parsing import "
                              "policy_of\nfrom ssd_probe.decoding import Decoding\n").replace(
    '"window": 4}', '"window": 4}, policy_of("top-h", Decoding())')  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("fake") / "env")


@pytest.fixture(autouse=True)
def _there(monkeypatch, place):
    monkeypatch.setenv("SSD_PROBE_VLLM", str(place))


@pytest.fixture
def engine():
    engine = engine_of(Choice("vllm"), Checkpoint("tiny"), 4)
    yield engine
    engine.close()


def processes(place):
    """Those that run the environment's python."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(place).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended
            pass
    return found


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def requests(count):
    return {i: Request("p", i, [5, 6, 7, i % 50], 4) for i in range(count)}


def test_every_request_has_its_own_answer(engine):
    asked = requests(50)
    found = {at: drawn for some in engine.answers(asked, DECODING, 0) for at, drawn in some.items()}
    assert {at: list(drawn.ids) for at, drawn in found.items()} == {
        at: list(request.ids) for at, request in asked.items()
    }
    assert engine.draws([9], 300, DECODING, 0) == [9] * 300


def test_closed_in_the_middle_it_ends_with_all_that_is_vllms(engine, place, monkeypatch):
    """Where both pipes are full: as by Ctrl-C in a run of many answers."""
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.001")
    answers = engine.answers(requests(MANY), DECODING, 0)
    next(answers)
    time.sleep(0.5)  # nobody reads
    assert len(processes(place)) >= 2
    engine.close()
    until(lambda: not processes(place))


def test_answers_that_were_not_taken_are_not_the_next_ones(engine, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.001")
    left = engine.answers(requests(2_000), DECODING, 0)
    next(left)
    left.close()
    asked = {i: Request("q", i, [9, 9, 8, i], 4) for i in range(20)}
    found = {at: drawn for some in engine.answers(asked, DECODING, 1) for at, drawn in some.items()}
    assert {at: list(drawn.ids) for at, drawn in found.items()} == {
        at: list(request.ids) for at, request in asked.items()
    }


def test_a_killed_sampler_leaves_no_link_to_the_package(place, tmp_path, monkeypatch):
    """Rivals' rules are found through one; the other side removes it where this one cannot."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.01")
    with subprocess.Popen([sys.executable, "-c", STARTS_RIVAL], stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"answered\n"
        (link,) = tmp_path.glob("ssd-probe-*/ssd_probe")
        assert link.is_symlink() and link.resolve() == PACKAGE
        client.kill()
    until(lambda: not processes(place))
    assert not list(tmp_path.glob("ssd-probe-*")) and (PACKAGE / "__init__.py").is_file()


def test_killed_it_takes_all_that_is_vllms_along(engine, place, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.01")
    answers = engine.answers(requests(MANY), DECODING, 0)
    next(answers)
    os.kill(engine._worker.process.pid, signal.SIGKILL)
    with pytest.raises(Resumable, match="vLLM ended in the middle"):
        list(answers)
    until(lambda: not processes(place))


@pytest.mark.parametrize("loading", [True, False], ids=["loading", "answering"])
def test_it_ends_with_a_process_that_is_killed(loading, place, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.01")
    if loading:
        monkeypatch.setenv("FAKE_VLLM_LOADING", "1")
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE) as client:
        if loading:
            until(lambda: len(processes(place)) >= 2)
        else:
            assert client.stdout.readline() == b"answered\n"
        client.kill()
    until(lambda: not processes(place))


def test_its_support_is_told_where_that_is_asked_for(place, engine):
    assert engine.support([1, 5, 9], DECODING) is None
    choice = Choice("vllm", arguments=("return_sampling_mask=true",))
    with closing(engine_of(choice, Checkpoint("tiny"), 4)) as telling:
        assert telling.support([1, 5, 9], DECODING) == [1, 5, 9]
        assert telling.settings()["engine_arguments"] == {"return_sampling_mask": True}
        for decoding in (Decoding(1.6, 0, 0.8), Decoding(0.0, 20)):
            with pytest.raises(UserError, match="--engine-arg return_sampling_mask: not at"):
                telling.support([1], decoding)

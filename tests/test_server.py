"""The server engine: whole runs against a server that drops, refuses, stalls, dies and comes back.

What is compared is the run of the same server undisturbed: nothing lost, nothing doubled.
"""

import json
import threading
import time
from contextlib import closing

import pytest

from ssd_probe.core import requests
from ssd_probe.core.config import SampleConfig
from ssd_probe.core.sample import sample_to_file
from ssd_probe.core.streams import seed_of
from ssd_probe.decoding import Decoding
from ssd_probe.engines import link
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.engines.dialects import Asked, LlamaCpp, SGLang
from ssd_probe.engines.server import Queue, Server
from ssd_probe.errors import Resumable, UserError
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.tokens import stop_ids
from ssd_probe.policies.parsing import policy_of
from ssd_probe.problems.prompts import read_prompts
from tests.fake_server import FakeServer

DECODING = Decoding(1.6, 20, 0.8)
CONFIG = SampleConfig(n=2, max_new_tokens=12, seed=3)
PROMPTS = read_prompts("tiny:dev", 5)
TINY = Checkpoint("tiny")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Waits of hundredths of a second."""
    monkeypatch.setattr(link, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(link, "LONGEST_WAIT", 0.1)


def run(path, *urls, decoding=DECODING, config=CONFIG, **settings):
    with closing(Server(TINY, urls, **{"window": 4, **settings})) as engine:
        rows = sample_to_file(path, engine, TINY.tokenizer, PROMPTS, decoding, config)
        return rows, engine


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with FakeServer() as server:
        rows, _ = run(tmp_path_factory.mktemp("whole") / "s.jsonl", server.url)
        assert len(server.answered) == 11  # and the one that it was looked at with
    return rows


def test_rows_say_what_every_engine_says(whole):
    stops = stop_ids(TINY.model.generation_config, TINY.tokenizer)
    assert [row["sample_id"] for row in whole] == [
        f"{prompt.problem_id}/{i}" for prompt in PROMPTS for i in range(2)
    ]
    for row in whole:
        assert row["engine"] == "server" and row["engine_version"] == "vllm 0.0.fake"
        assert row["order"] == "temperature, top_k, top_p"
        ended = row["completion_ids"][-1] in stops
        assert row["stop_reason"] == ("stop token" if ended else "length")
        assert row["finished"] == ended


def test_every_field_is_sent_and_each_answer_has_its_own_seed(tmp_path):
    with FakeServer() as server:
        run(tmp_path / "s.jsonl", server.url)
    bodies = server.bodies[1:]
    assert len({body["seed"] for body in bodies}) == len(bodies) == 10
    for body in bodies:
        assert (body["temperature"], body["top_k"], body["top_p"]) == (1.6, 20, 0.8)
        off = ("min_p", "presence_penalty", "frequency_penalty", "min_tokens")
        assert [body[name] for name in off] == [0, 0, 0, 0]
        assert body["repetition_penalty"] == 1 and body["return_token_ids"] is True


@pytest.mark.parametrize("fault", ["drop", "garbage", 429, 500, 503])
def test_what_failed_is_asked_again_with_its_seed(fault, tmp_path, whole):
    def sometimes(number, body):
        return fault if number in (2, 3, 5, 9) else None

    with FakeServer(sometimes) as server:
        rows, engine = run(tmp_path / "s.jsonl", server.url)
    assert rows == whole
    assert sum(engine.found()["retried"].values()) >= 4
    assert max(count for seed, count in server.answered.items() if seed) == 1  # nothing twice


def test_a_server_dies_and_another_comes_in_its_place(tmp_path, whole):
    servers = []

    def dies(number, body):
        if number == 4 and len(servers) == 1:
            server = servers[0]
            threading.Thread(target=reborn, args=(server,), daemon=True).start()
            return "stall"  # never answered
        return None

    def reborn(server):
        server.kill()
        again = FakeServer(port=server.port)
        servers.append(again)
        again.__enter__()

    with FakeServer(dies) as server:
        servers.append(server)
        rows, engine = run(tmp_path / "s.jsonl", server.url)
    servers[1].kill()
    assert rows == whole and engine.found()["retried"]


def test_several_servers_share_the_work_and_one_may_be_gone(tmp_path, whole):
    with FakeServer() as first, FakeServer(lambda number, body: "drop" if number else None) as bad:
        rows, _ = run(tmp_path / "s.jsonl", bad.url, first.url, window=2)
    assert rows == whole


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, whole, monkeypatch):
    path, left, kept = tmp_path / "s.jsonl", iter(range(4)), requests.append_part

    def interrupted(part, drawn):
        kept(part, drawn)
        if part is not None and next(left, None) is None:  # the server itself draws without one
            raise KeyboardInterrupt

    monkeypatch.setattr(requests, "append_part", interrupted)
    with FakeServer() as server:
        with pytest.raises(KeyboardInterrupt):
            run(path, server.url)
        monkeypatch.setattr(requests, "append_part", kept)
        part = path.with_name("s.jsonl.part")
        assert len(part.read_text().splitlines()) == 5 and not path.exists()
        asked = len(server.bodies)
        rows, _ = run(path, server.url)
        again = {body["seed"] for body in server.bodies[asked:]}  # some were still under way
    seeds = [seed_of(3, row["problem_id"], i % 2) for i, row in enumerate(rows)]
    assert rows == whole and not part.exists()
    assert len(again & {*seeds}) == 5  # of the ten, those that were not kept


def test_a_server_that_stalls_or_is_gone_ends_the_run_resumably(tmp_path, whole):
    path = tmp_path / "s.jsonl"
    stalls = FakeServer(lambda number, body: "stall" if number > 4 else None)
    with stalls as server, pytest.raises(Resumable, match="no answer from any server"):
        run(path, server.url, stall=5.0)
    with pytest.raises(Resumable, match="start the server"):
        run(path, server.url)
    with FakeServer(port=server.port) as server:
        assert run(path, server.url)[0] == whole


@pytest.mark.parametrize(
    ("server", "settings", "message"),
    [
        ({"names": ("other", "third")}, {}, "does not serve 'tiny'; --served-model: one of other"),
        ({"names": ("other",)}, {"served": "tiny"}, "does not serve 'tiny'"),
        ({"shift": 1}, {}, "another tokenizer than that of tiny"),
        ({"ids": False}, {}, "gives text and no token ids"),
        ({"key": "secret"}, {}, "wants a key"),
        ({"key": "secret"}, {"key": "wrong"}, "refuses the key"),
        ({"fault": lambda n, b: 400 if n == 3 else None}, {}, "refuses the request: as told"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_asking_again_will_not_mend_is_one_line(server, settings, message, tmp_path):
    with FakeServer(**server) as fake, pytest.raises(UserError, match=message) as told:
        run(tmp_path / "s.jsonl", fake.url, **settings)
    assert "\n" not in str(told.value) and "secret" not in str(told.value)
    assert not (tmp_path / "s.jsonl").exists()


def test_the_one_model_of_a_server_may_have_another_name(tmp_path, whole):
    with FakeServer(names=("served/name",), key="secret") as server:
        rows, _ = run(tmp_path / "s.jsonl", server.url, key="secret")
    assert rows == whole
    assert "secret" not in (tmp_path / "s.jsonl").read_text()


def test_text_is_tokenised_again_only_where_that_is_asked_for(tmp_path, whole):
    with FakeServer(ids=False) as server:
        rows, engine = run(tmp_path / "s.jsonl", server.url, allow_text=True)
    assert engine.found()["ids_from_text"] and engine.settings()["allow_text"]
    assert [row["completion"] for row in rows] == [row["completion"] for row in whole]
    assert [row["stop_reason"] for row in rows] == [row["stop_reason"] for row in whole]


def test_it_waits_as_long_as_the_longest_answer_may_take(tmp_path, monkeypatch):
    """65,536 tokens of a busy server take longer than half an hour."""
    waited = []
    monkeypatch.setattr(Queue, "run", lambda self, _: waited.append(self.stall) or iter(()))
    for tokens, stall in ((100, None), (65_536, None), (65_536, 7.0)):
        engine = engine_of(Choice("server", ("http://x",), stall=stall), TINY)
        monkeypatch.setattr(engine.peers[0], "require", lambda: None)
        monkeypatch.setattr(engine, "_say_order", lambda _: None)
        list(engine.answers({0: requests.Request("p", 0, [1], tokens)}, DECODING, 0))
        assert engine.peers[0].link.timeout == 2 * waited[-1]
    assert waited == [1810, 1800 + 6553.6, 7]


def test_slow_answers_one_after_another_are_no_stall(tmp_path):
    """Each waits for those before it, longer in all than nothing may come."""
    one_by_one = threading.Lock()

    def slowly(number, body):
        with one_by_one:
            time.sleep(0.4 if number > 0 else 0)

    with FakeServer(slowly) as server:
        rows, engine = run(tmp_path / "s.jsonl", server.url, stall=2.0)
    assert len(rows) == 10 and not engine.found()["retried"]


def test_rivals_and_foreign_flags_are_refused(tmp_path):
    with pytest.raises(UserError, match="only with --engine hf or vllm"):  # asked of none
        run(tmp_path / "s.jsonl", "http://127.0.0.1:1", decoding=policy_of("top-h", Decoding()))
    with FakeServer() as server, pytest.raises(UserError, match="only with --engine hf"):
        run(tmp_path / "s.jsonl", server.url, decoding=policy_of("min-p(0.1)", Decoding()))
    for settings, message in (
        ({"engine": "tgi"}, "must be one of hf, vllm, server"),
        ({"engine": "server"}, "--url"),
        ({"engine": "hf", "urls": ("http://x",)}, "--url: only with --engine server"),
        ({"engine": "vllm", "stall": 9.0}, "--stall: only with --engine server"),
        ({"engine": "hf", "arguments": ("a=1",)}, "--engine-arg: only with --engine vllm"),
    ):
        with pytest.raises(UserError, match=message):
            Choice(**settings)
    for url in ("localhost:8000", "http://me:secret@host"):
        with pytest.raises(UserError, match="--url") as told:
            Server(TINY, [url])
        assert "secret" not in str(told.value)


def test_other_servers_words():
    """SGLang's (fields as its page names them) and llama.cpp's; no such server was asked."""
    asked = Asked("m", [1, 2], 8, Decoding(0.7, 0, 0.95), 5, [3], ["\n\n"])
    body = SGLang().body(asked)
    assert body["input_ids"] == [1, 2] and body["sampling_params"]["sampling_seed"] == 5
    assert body["sampling_params"]["top_k"] == -1 and body["sampling_params"]["min_p"] == 0
    meta = {"finish_reason": {"type": "stop", "matched": 3}}
    (reply,) = SGLang().replies({"text": "x", "output_ids": [7], "meta_info": meta})
    assert (reply.ids, reply.reason, reply.matched) == ([7], "stop", 3)
    body = LlamaCpp().body(asked)
    assert body["samplers"] == ["temperature", "top_k", "top_p"] and body["return_tokens"] is True
    assert body["min_p"] == 0 and body["n_predict"] == 8
    (reply,) = LlamaCpp().replies({"content": "x", "tokens": [7, 3], "stop_type": "eos"})
    assert (reply.ids, reply.reason) == ([7, 3], "stop")
    assert json.dumps(body)

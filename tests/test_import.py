"""Log-probabilities of servers: each format to the same numbers, each interval holds the truth."""

import json
import sys
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.cli.app import main
from ssd_probe.commands.importing import UNDECIDED, import_stage
from ssd_probe.decoding import LABELLING
from ssd_probe.errors import UserError
from ssd_probe.probing.foreign.bounds import bounds
from ssd_probe.probing.foreign.formats import read_answers
from ssd_probe.probing.foreign.table import TABLE
from ssd_probe.probing.table import Probe
from tests.probes import entropy_of, probe_of, random_logits, softmax

V = 150


@pytest.fixture(scope="module")
def rows():
    """log p [60, V], descending, from sharp to flat."""
    return -np.sort(-np.log([softmax(row) for row in random_logits()]), axis=1)


def varentropy_of(p):
    p = p[p > 0]
    return (p * np.log(p) ** 2).sum() - entropy_of(p) ** 2


def holds(interval, values, slack=1e-12):
    return (interval.low <= values + slack) & ~(interval.high < values - slack)


class TestBounds:
    @pytest.mark.parametrize("ranks", [1, 2, 5, 20, 149, 150])
    @pytest.mark.parametrize("decimals", [3, 6, 16])
    @pytest.mark.parametrize("vocabulary", [None, V])
    def test_the_truth_is_inside(self, rows, ranks, decimals, vocabulary):
        told = np.round(rows[:, :ranks], decimals)
        found = bounds(told, decimals, vocabulary)
        p = np.exp(rows)
        for interval, truth in (
            (found.tail, p[:, ranks:].sum(1)),
            (found.entropy, [entropy_of(row) for row in p]),
            (found.varentropy, [varentropy_of(row) for row in p]),
        ):
            assert holds(interval, np.array(truth)).all()
        assert np.isnan(found.entropy.high).all() == (vocabulary is None)

    def test_both_ends_of_the_entropy_are_reached(self):
        """A tail of four tokens as likely as the last rank, and one of 140 equal ones."""
        head = np.array([0.5, 0.1, 0.08, 0.05])
        packed = np.concatenate([head, [0.05] * 5, [0.02]])
        even = np.concatenate([head, np.full(V - 4, 0.27 / (V - 4))])
        found = bounds(np.log(head)[None], 16, V)
        least = entropy_of(head) - 0.27 * np.log(0.05)
        assert_allclose(found.entropy.low, least, atol=1e-4)
        assert found.entropy.low[0] <= entropy_of(packed) < least + 0.05
        assert_allclose(found.entropy.high, entropy_of(even), atol=1e-4)

    def test_all_tokens_told_leave_only_the_error_of_the_digits(self, rows):
        found = bounds(rows, 16, V)
        truth = np.array([entropy_of(row) for row in np.exp(rows)])
        assert (found.entropy.high - found.entropy.low < 1e-3).all()
        assert_allclose(found.entropy.low, truth, atol=1e-3)
        assert (found.tail.high == 0).all()

    def test_a_likelier_token_may_be_missing(self):
        """0.3 is told, 0.6 lost its name to another id: the tail may be a single token."""
        lost = np.array([0.3, 0.05, 0.05, 0.6])
        log_p = np.log(lost[:3])[None]
        sure, careful = bounds(log_p, 16, 50), bounds(log_p, 16, 50, np.array([True]))
        assert not holds(sure.entropy, entropy_of(lost))
        assert holds(careful.entropy, entropy_of(lost)) and holds(careful.tail, 0.6, 1e-5)


TOLD = [[-0.1, -2.5, -5.0], [-0.7, -0.9, -3.5]]
WORDS = ["a", " b", "\n"]


def leading(i, ids=False):
    return [{"token": w, "logprob": v, "bytes": None} | ({"id": k} if ids else {})
            for k, (w, v) in enumerate(zip(WORDS, TOLD[i], strict=True))]  # fmt: skip


def chat(ids=False):
    """The second token is not the likeliest."""
    return [leading(i, ids)[i] | {"top_logprobs": leading(i, ids)} for i in (0, 1)]


def named(name):
    return {k: v for k, v in zip(["token_id:0", "token_id:1", "token_id:2"] if name else WORDS,
                                 [0, 0, 0], strict=True)}  # fmt: skip


def completion(ids=False):
    keys = list(named(ids))
    tops = [dict(zip(keys, values, strict=True)) for values in TOLD]
    return {"tokens": [keys[0], keys[1]], "token_logprobs": [-0.1, -0.9], "top_logprobs": tops}


INSPECT = {"id": 7, "epoch": 2, "output": {"choices": [{"logprobs": {"content": chat()}}]}}
BODY = {"model": "m", "choices": [{"logprobs": {"content": chat()}}]}
FORMATS = {
    "chat": {"id": "c1", **BODY},
    "completion": {"id": "c1", "model": "m", "choices": [{"logprobs": completion()}]},
    "vllm ids": {"id": "c1", "model": "m", "choices": [{"logprobs": completion(True)}]},
    "batch": {"custom_id": "c1", "response": {"body": BODY}},
    "llama.cpp": {"model": "m", "completion_probabilities": chat(ids=True)},
    "inspect": {"eval": {"model": "m"}, "samples": [INSPECT]},
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(tmp_path, name):
    source = read_answers(write(tmp_path / "x.json", FORMATS[name]))
    (answer,) = source.answers
    assert source.models == ["m"] and source.decimals == 1
    assert [[t.logprob for t in p.leading] for p in answer.positions] == TOLD
    assert [p.token.logprob for p in answer.positions] == [-0.1, -0.9]
    ids = [p.token.id for p in answer.positions]
    assert ids == ([0, 1] if name in ("vllm ids", "llama.cpp") else [None, None])
    if name == "inspect":
        assert (answer.sample_id, answer.problem_id) == ("7#2", "7")
    assert not any(p.may_lack for p in answer.positions)


def test_inspect_s_zip_and_json_lines(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.eval", "w") as log:
        log.writestr("header.json", json.dumps({"eval": {"model": "m"}}))
        log.writestr("samples/7_epoch_2.json", json.dumps(INSPECT))
        log.writestr("_journal/start.json", "{}")
    assert read_answers(tmp_path / "x.eval").answers[0].sample_id == "7#2"
    lines = tmp_path / "x.jsonl"
    lines.write_text("\n".join(json.dumps(FORMATS["chat"] | {"id": i}) for i in "ab"))
    assert [answer.sample_id for answer in read_answers(lines).answers] == ["a", "b"]


def test_names_that_ids_share_are_known_to_lack_a_token(tmp_path):
    said = completion()
    del said["top_logprobs"][1][" b"]
    content = {"choices": [{"logprobs": said}]}
    positions = read_answers(write(tmp_path / "x.json", content)).answers[0].positions
    assert [position.may_lack for position in positions] == [False, True]


def test_the_table_and_what_is_said(tmp_path, rows):
    """Labels are those of the whole distribution, where they are decided at all."""
    content = [
        {"token": str(i), "logprob": row[0], "id": 5,
         "top_logprobs": [{"token": str(k), "logprob": v, "id": k} for k, v in enumerate(row[:30])]}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    path = write(tmp_path / "x.json", {"completion_probabilities": content})
    found = import_stage(path, tmp_path / "out", V, LABELLING)
    assert (found.positions, found.ranks, found.with_ids) == (60, 30, True)
    truth = SupportRule().label(probe_of(rows)).value_counts()
    counted = {row["label"]: row["positions"] for row in found.kinds}
    assert counted.pop(UNDECIDED, 0) <= 3 and len(counted) >= 3
    assert all(0 <= truth[kind] - count <= 3 for kind, count in counted.items())
    table = pq.read_table(tmp_path / "out" / TABLE).to_pandas()
    h = np.array([entropy_of(row) for row in np.exp(rows)])
    assert ((table["entropy_low"] <= h) & (h <= table["entropy_high"])).all()
    assert table["rank"].isna().all()  # id 5 is not the token at rank 1: not found by the number
    open_ended = import_stage(path, None, None, LABELLING)
    assert all(row["entropy_high"] is None for row in open_ended.kinds)
    with pytest.raises(UserError, match="imported log-probabilities, known in part by intervals"):
        Probe.load(tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        import_stage(path, tmp_path / "out", V, LABELLING)


TOP = {"token": "a", "logprob": -0.1}


@pytest.mark.parametrize(("content", "message"), [
    ("{", "x.json:1: not JSON"),
    ("", "x.json: the file is empty"),
    ({"text": "x"}, "x.json: no format that is known"),
    ({"choices": [{"text": "x"}]}, "x.json: no log-probabilities; ask the server"),
    ({"choices": [{"logprobs": {"content": [TOP]}}]}, "x.json: position 0 has no leading tokens"),
    ({"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]}, "x.json: not what a server"),
    ({"completion_probabilities": [{"id": 1, "token": "a", "prob": 1, "top_probs": []}]},
     "x.json: probabilities after sampling's truncation"),
    ({"choices": [{"logprobs": {"content": [TOP | {"top_logprobs": [TOP, TOP]}]}}]},
     "x.json: position 0: the leading probabilities add up to 1.81"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "import", "x.json", "--out", "made"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()[1]
    assert stop.value.code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_the_command_fits_a_terminal(tmp_path, monkeypatch, capfd):
    path = write(tmp_path / "x.json", FORMATS["chat"])
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "import", str(path), "--vocab-size", "100"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()[0]
    assert not stop.value.code and "2 positions of 1 answers of m, with the 3 likeliest" in said
    assert max(map(len, said.splitlines())) <= 100

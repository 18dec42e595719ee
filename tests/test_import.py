"""Log-probabilities of servers: each format to the same numbers, each interval holds the truth."""

import json
import sys
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.cli.app import main
from ssd_probe.commands.importing import UNDECIDED, import_stage
from ssd_probe.decoding import LABELLING
from ssd_probe.errors import UserError
from ssd_probe.probing.foreign.bounds import bounds
from ssd_probe.probing.foreign.formats import read_answers
from ssd_probe.probing.foreign.table import TABLE, imported
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


@pytest.mark.parametrize("form", ["chat", "completion", "sorted completion"])
@pytest.mark.parametrize("rank", [1, 3, 5, 6, 40])
def test_a_token_told_beyond_the_leading_ones_is_not_one(tmp_path, rows, form, rank):
    """vLLM tells it first: in chat in place of the last one, in completions beside all."""
    k, own, content, tokens, tops = 5, rank - 1, [], [], []
    for row in rows:
        told = [{"token": f"token_id:{i}", "logprob": float(row[i])} for i in range(V)]
        order = [told[own], *(told[i] for i in range(k) if i != own)]
        content.append(told[own] | {"top_logprobs": order[:k]})
        tokens.append(told[own])
        order.sort(key=lambda each: -each["logprob"] if form.startswith("sorted") else 0)
        tops.append({each["token"]: each["logprob"] for each in order})
    flat = {
        "tokens": [t["token"] for t in tokens],
        "token_logprobs": [t["logprob"] for t in tokens],
    }
    said = {"content": content} if form == "chat" else flat | {"top_logprobs": tops}
    write(path := tmp_path / "v.json", {"choices": [{"logprobs": said}]})
    table, found = imported(read_answers(path), V)
    assert len(table["top_logprobs"][0]) == (
        k if rank < k or form != "chat" and rank > k else k - 1
    )
    assert_allclose(table["logprob"], rows[:, own])
    p = np.exp(rows)
    assert holds(found.entropy, np.array([entropy_of(row) for row in p])).all()
    assert holds(found.tail, p[:, len(table["top_logprobs"][0]) :].sum(1), 1e-9).all()


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
    assert table["label"].value_counts().to_dict() == {
        row["label"]: row["positions"] for row in found.kinds
    }
    forks = next(row for row in found.kinds if row["label"] == "fork")
    assert_allclose(table.loc[table["label"] == "fork", "kept_mass"].mean(), forks["kept_mass"])
    assert table.loc[table["label"] == UNDECIDED, "kept_mass"].isna().sum() <= 3
    assert table["rank"].isna().all()  # id 5 is not the token at rank 1: not found by the number
    open_ended = import_stage(path, None, None, LABELLING)
    assert all(row["entropy_high"] is None for row in open_ended.kinds)
    with pytest.raises(UserError, match="imported log-probabilities, known in part by intervals"):
        Probe.load(tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        import_stage(path, tmp_path / "out", V, LABELLING)


def doubts_of(tmp_path, told, own=None):
    """Of 2 positions with these numbers and their token's."""
    tops = [{"token": w, "logprob": v} for w, v in zip(WORDS, told, strict=False)]
    each = tops[0] | ({} if own is None else {"token": "z", "logprob": own}) | {
        "top_logprobs": tops
    }  # fmt: skip
    content = {"choices": [{"logprobs": {"content": [each, each]}}]}
    found = import_stage(write(tmp_path / "x.json", content), None, V, LABELLING).doubts
    *others, undecided = found
    assert undecided == (
        f"2 of 2 positions are undecided: {len(told)} tokens do not tell what T=1.6, top-k 20, "
        "top-p 0.8 keeps; ask the server for 21, or label by a smaller --rule-top-k"
    )
    return others


def test_twenty_tokens_are_enough_where_ties_beyond_would_change_nothing(tmp_path):
    """As of APIs that tell no more: the default rule keeps 20, and of ties at the edge all."""
    lock = np.log(np.concatenate([[0.99], 0.004 * 0.5 ** np.arange(19)]))
    fork = np.log(np.concatenate([[0.49, 0.44], 0.03 * 0.5 ** np.arange(18)]))
    flat = np.log(np.full(20, 0.02))  # 30 more may be as likely: the nucleus would hold them
    content = [
        {"token": "0", "logprob": row[0], "id": 0,
         "top_logprobs": [{"token": str(k), "logprob": v, "id": k} for k, v in enumerate(row)]}
        for row in (lock, fork, flat)
    ]  # fmt: skip
    path = write(tmp_path / "x.json", {"completion_probabilities": content})
    found = import_stage(path, tmp_path / "out", V, LABELLING)
    table = pq.read_table(tmp_path / "out" / TABLE).to_pandas()
    assert table["label"].tolist() == ["lock", "fork", UNDECIDED] and not found.doubts
    for row, log_p in zip(table.itertuples(), (lock, fork), strict=False):
        tied = np.concatenate([log_p, np.full(1, log_p[-1])])  # a tie beyond: the same support
        for z in (log_p, tied):
            kept = LABELLING.warp(torch.tensor(z)[None])[0] > -torch.inf
            assert float(np.exp(z[kept.numpy()]).sum()) == pytest.approx(row.kept_mass)
    assert np.isnan(table["kept_mass"][2])


def test_what_is_doubtful_is_said_and_nothing_else(tmp_path):
    assert doubts_of(tmp_path, [-0.1, -2.5]) == []  # the digits allow for no tail, no more
    (truncated,) = doubts_of(tmp_path, [np.log(0.75), np.log(0.25)])
    assert "the 2 tokens have all the mass: were the numbers taken after truncation" in truncated
    wide = -np.log(np.arange(22) + 22.0)  # whole numbers of nats, which leave all open
    content = [{"token": "0", "logprob": 0, "id": 0, "top_logprobs": [
        {"token": str(k), "logprob": round(v), "id": k} for k, v in enumerate(wide)]}]  # fmt: skip
    path = write(tmp_path / "y.json", {"completion_probabilities": content})
    found = import_stage(path, None, V, LABELLING)
    assert [row["label"] for row in found.kinds] == [UNDECIDED]
    assert not any("ask the server" in doubt for doubt in found.doubts)
    (untold,) = doubts_of(tmp_path, [-0.1234567, -2.7654321], own=-9999.0)
    assert untold.startswith("2 of 2 tokens have no log-probability")


def test_one_position_of_few_tokens_is_said(tmp_path):
    told = [{"token": "0", "logprob": row[0], "id": 0, "top_logprobs": [
        {"token": str(k), "logprob": v, "id": k} for k, v in enumerate(row)]}
        for row in [[-0.1, -2.5, -5.0]] * 3 + [[-0.1, -9999.0, -9999.0]]]  # fmt: skip
    path = write(tmp_path / "x.json", {"completion_probabilities": told})
    found = import_stage(path, None, V, LABELLING)
    assert found.ranks == 1 and found.doubts[0].startswith(
        "1 of 4 positions tell fewer than 3 tokens, the fewest 1: all are read with 1"
    )


P = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])  # of tokens 10 to 14


def entry(own, k=2):
    """As vLLM writes it: the prompt's token, then ranks 1 to k."""
    return {
        str(10 + i): {"logprob": float(np.log(P[i])), "rank": i + 1, "decoded_token": "abcde"[i]}
        for i in [own, *range(k)]
    }


def prompted(*owns, ids=True, **changes):
    told = {"prompt_logprobs": [None, *(entry(own) for own in owns)]}
    if ids:
        told["prompt_token_ids"] = [7, *(10 + own for own in owns)]
    return told | changes


class TestPrompts:
    """Given texts, scored by vLLM."""

    @pytest.mark.parametrize("ids", [True, False])
    @pytest.mark.parametrize("chat", [True, False])
    def test_the_tokens_and_the_likeliest(self, tmp_path, ids, chat):
        told = prompted(3, 0, 1, 2, ids=ids)
        content = {"id": "c1", "choices": [{"logprobs": None}]} | told
        if not chat:
            content = {"id": "c1", "choices": [{"logprobs": None} | told]}
        (answer,) = read_answers(write(tmp_path / "x.json", content)).answers
        assert (answer.sample_id, answer.segment) == ("c1", "prompt")
        own = [(p.token.id, p.token.text, p.token.rank) for p in answer.positions]
        assert own == [(13, "d", 4), (10, "a", 1), (11, "b", 2), (12, "c", 3)]
        assert_allclose([p.token.logprob for p in answer.positions], np.log(P[[3, 0, 1, 2]]))
        leading = [[token.id for token in p.leading] for p in answer.positions]
        assert leading == [[10, 11]] * 3 + [[10, 11, 12]]  # rank k + 1 is a leading one, too

    def test_the_table(self, tmp_path):
        """The tail exactly; H with a tail of one token, and of V - K equal ones."""
        content = {"model": "m", "choices": [prompted(3, 0, 2)]}
        path = write(tmp_path / "x.json", content)
        found = import_stage(path, tmp_path / "out", 5, LABELLING)
        assert (found.prompts, found.answers, found.positions, found.ranks) == (1, 0, 3, 2)
        assert found.with_ids and len(found.doubts) == 1 and "undecided" in found.doubts[0]
        table = pq.read_table(tmp_path / "out" / TABLE).to_pandas()
        assert list(table["token_id"]) == [13, 10, 12] and list(table["rank"]) == [4, 1, 3]
        assert list(table["position"]) == [0, 1, 2] and set(table["segment"]) == {"prompt"}
        assert_allclose(table["logprob"], np.log(P[[3, 0, 2]]))
        assert_allclose(table[["tail_mass_low", "tail_mass_high"]], 0.25, atol=1e-5)
        head, r = entropy_of(P[:2]), 0.25
        assert_allclose(table["entropy_low"], head - r * np.log(0.25), atol=1e-4)
        assert_allclose(table["entropy_high"], head - r * np.log(r / 3), atol=1e-4)
        assert (table["entropy_low"] <= entropy_of(P)).all()

    def test_a_token_without_probability_or_name(self, tmp_path):
        told = prompted(0, 4)
        told["prompt_logprobs"][1]["10"]["decoded_token"] = None
        told["prompt_logprobs"][2]["14"] |= {"logprob": -9999.0, "rank": 900}
        content = {"choices": [told]}
        (answer,) = read_answers(write(tmp_path / "x.json", content)).answers
        assert answer.positions[0].token.text == "token_id:10"
        assert answer.positions[1].token == ("e", 14, None, 900)

    def test_any_order_with_ids(self, tmp_path):
        content = {"choices": [prompted(3, 1, 2)]}
        path = tmp_path / "x.json"
        path.write_text(json.dumps(content, sort_keys=True))
        (answer,) = read_answers(path).answers
        assert [p.token.rank for p in answer.positions] == [4, 2, 3]

    def test_beside_the_answer_s_own_tokens(self, tmp_path):
        """n answers repeat the prompt; an echo has it before its own tokens."""
        said = completion(True)
        echo = {name: [None, said[name][0], *said[name]] for name in said} | {
            "tokens": ["token_id:7", "token_id:13", *said["tokens"]]
        }
        choices = [{"logprobs": each} | prompted(3) for each in (said, echo)]
        path = write(tmp_path / "x.json", {"id": "c1", "choices": choices})
        answers = read_answers(path).answers
        assert [(a.sample_id, a.segment, len(a.positions)) for a in answers] == [
            ("c1/0", "prompt", 1), ("c1/0", "completion", 2), ("c1/1", "completion", 2)
        ]  # fmt: skip
        assert answers[1].positions == answers[2].positions
        found = import_stage(path, None, 100, LABELLING)
        assert (found.prompts, found.answers, found.positions) == (1, 2, 5)
        assert "`segment` tells them apart" in found.doubts[-1]


TOP = {"token": "a", "logprob": -0.1}


def spoiled(own=3, name=None, ids=True, **changes):
    """A prompt whose token `name` (its own if None) is told otherwise."""
    told = prompted(own, ids=ids)
    told["prompt_logprobs"][1][name or str(10 + own)] |= changes
    return {"choices": [told]}


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
    ({"choices": [{"logprobs": completion() | {"tokens": ["a"]}}]}, "x.json: not what a server"),
    ({"choices": [prompted(3, prompt_token_ids=[7])]},
     "x.json: 2 prompt_logprobs but 1 prompt_token_ids"),
    ({"choices": [prompted(3, prompt_token_ids=[7, 99])]},
     "x.json: prompt_logprobs[1] lacks token 99"),
    ({"choices": [{"prompt_logprobs": [entry(3)]}]}, "x.json: prompt_logprobs[0] is not null"),
    ({"choices": [{"prompt_logprobs": [None, None]}]}, "x.json: prompt_logprobs[1] tells no token"),
    ({"choices": [{"prompt_logprobs": [None, {}]}]}, "x.json: prompt_logprobs[1] tells no token"),
    ({"choices": [{"prompt_logprobs": [None]}]}, "x.json: no log-probabilities; ask the server"),
    ({"choices": [{"prompt_logprobs": [None, entry(3, k=0)]}]},
     "x.json: position 0 has no leading tokens"),
    ({"choices": [{"prompt_logprobs": [None, dict(sorted(entry(3).items()))]}]},
     "x.json: prompt_logprobs[1]: ranks 1 and [2, 4] are not those"),
    (spoiled(rank=None), "x.json: prompt_logprobs[1]: ranks None and [1, 2] are not"),
    (spoiled(rank=2), "x.json: prompt_logprobs[1]: ranks 2 and [1, 2] are not"),
    (spoiled(rank=0), "x.json: prompt_logprobs[1]: ranks 0 and [1, 2] are not those of the prompt's"
     " token and of 1 to k, each once\n"),
    (spoiled(rank=0, ids=False), "x.json: prompt_logprobs[1]: ranks 0 and [1, 2] are not those of "
     "the prompt's token and of 1 to k, each once, in vLLM's order (with return_token_ids any"),
    (spoiled(name="10", rank=None), "x.json: prompt_logprobs[1]: ranks 4 and [None, 2] are not"),
    (spoiled(name="11", rank=3), "x.json: prompt_logprobs[1]: ranks 4 and [1, 3] are not"),
    (spoiled(logprob=float("nan")), "x.json: not what a server writes (ValueError: a log-prob"),
    (spoiled(name="11", logprob="-inf"), "x.json: not what a server writes (TypeError"),
    (spoiled(logprob=-0.1), "x.json: prompt_logprobs[1]: a token is likelier than one of a better"),
    (spoiled(name="10", logprob=-9999.0), "x.json: prompt_logprobs[1]: a token is likelier"),
    (spoiled(name="10", logprob=7.5), "x.json: position 0: the leading probabilities add up to 18"),
    ({"choices": [{"prompt_logprobs": [None, {"x": {}}]}]}, "x.json: not what a server writes"),
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

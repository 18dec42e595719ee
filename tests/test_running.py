"""Answers that share what their prompts begin with, come and go, and end at strings."""

import json
from dataclasses import replace

import pytest
import torch

from ssd_probe.core import drawing, threads
from ssd_probe.core.batching import ALONE, EQUAL, PADDED, SHARED, batching
from ssd_probe.core.drawing import draw
from ssd_probe.core.requests import STRING, Drawn, Request, stop_reason
from ssd_probe.core.running import Answer, divided, in_order
from ssd_probe.core.sample import sample
from ssd_probe.decoding import Decoding
from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.models.limits import limits_of
from ssd_probe.models.tokens import (
    before_stop,
    completion_text,
    continuation_ids,
    render_prompt,
    stop_ids,
    text_ids,
)
from ssd_probe.problems.prompts import Prompt, read_prompts
from tests.models import tiny_model, tiny_tokenizer
from tests.tokenizer_kinds import COMPLETION, KINDS, PROMPT, tokenizer_of

DECODING = Decoding(1.6, 20, 0.8)
PROMPTS = read_prompts("tiny:dev", 9)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_tokenizer("tiny")


def requests_of(tiny, n=3, rooms=(48,)):
    """Answers to prompts, and, as `branch` asks for, to beginnings of one answer."""
    model, tokenizer = tiny
    asked = [render_prompt(tokenizer, prompt) for prompt in PROMPTS]
    (row,) = sample(model, tokenizer, PROMPTS[:1], Decoding(0), max_new_tokens=48)
    whole = row["prompt_ids"] + row["completion_ids"]
    asked += [[*whole[:end], 9] for end in range(len(row["prompt_ids"]), len(whole), 5)]
    asked += [whole[:1], whole[1:2]]  # of one token
    return [
        Request(f"{place}", index, ids, rooms[(place + index) % len(rooms)])
        for place, ids in enumerate(asked)
        for index in range(n)
    ]


@pytest.mark.parametrize("decoding", [Decoding(0), DECODING, Decoding(1.0)], ids=str)
@pytest.mark.parametrize("rooms", [(48,), (48, 3, 17, 1)], ids=["one room", "many rooms"])
def test_shared_answers_are_those_of_padded_batches(tiny, decoding, rooms):
    assert batching(tiny[0]) == SHARED
    requests = requests_of(tiny, rooms=rooms)
    plain = draw(*tiny, requests, decoding, how=PADDED, seed=3)
    for size in (1, 7, 64):
        assert draw(*tiny, requests, decoding, how=SHARED, batch_size=size, seed=3) == plain
    assert all(1 <= len(ids) <= r.room for ids, r in zip(plain, requests, strict=True))
    assert len({tuple(ids) for ids in plain}) > 10


def test_threads_draw_what_one_draws(tiny, monkeypatch):
    requests = requests_of(tiny)
    plain = draw(*tiny, requests, DECODING)
    monkeypatch.setattr(threads, "SMALL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert threads.lane_count(tiny[0], 64) == 3
    for how in (SHARED, PADDED):
        assert draw(*tiny, requests, DECODING, how=how) == plain


def test_what_a_thread_raises_is_raised_and_ends_the_others():
    seen = []

    def work(name, count):
        for i in range(count):
            if name == "b" and i == 2:
                raise ArithmeticError("b")
            seen.append(name)
            yield name

    with pytest.raises(ArithmeticError, match="b"):
        list(threads.interleaved([work("a", 10**7), work("b", 5)]))
    assert len(seen) < 10**7
    assert sorted(threads.interleaved([work("a", 3), work("c", 2)])) == ["a", "a", "a", "c", "c"]


def test_groups_share_a_prefix_and_families_stay_together():
    """A program's forced tokens at each of its positions: a group a position, in order."""
    one, two = list(range(100, 140)), list(range(200, 230))
    ids = [[*two[:20], 1], [*one[:30], 1], [*one[:31], 1], [*one[:30], 2], [*two[:21], 1], one]
    groups = in_order([Answer(place, each, 5) for place, each in enumerate(ids)])
    assert [[a.place for a in group] for group in groups] == [[1, 3], [2], [5], [0], [4]]
    shares = divided(groups, 2, 2)
    assert sorted(a.place for share in shares for group in share for a in group) == [*range(6)]
    assert all(shares)


def test_a_prompt_is_computed_once_for_its_answers(tiny, monkeypatch):
    """Tokens that go through the model: the longest prompt, what others add, and the answers'."""
    model, tokenizer = tiny
    fed = []
    forward = type(model).forward

    def count(self, input_ids=None, **inputs):
        fed.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **inputs)

    count.__signature__ = __import__("inspect").signature(forward)
    requests = [r for r in requests_of(tiny, n=8) if r.name in ("0", "1")]
    monkeypatch.setattr(type(model), "forward", count)
    drawn = draw(*tiny, requests, Decoding(0), how=SHARED)
    prompts = sum(len(ids) for ids in {tuple(r.ids) for r in requests})
    assert sum(fed) <= prompts + sum(map(len, drawn)) + len(drawn) * drawing.STEPS


def test_an_interrupted_part_goes_on_and_draws_nothing_twice(tiny, tmp_path):
    requests, part = requests_of(tiny), tmp_path / "x.part"
    whole = draw(*tiny, requests, DECODING, part=part, batch_size=8)
    lines = part.read_text().splitlines(keepends=True)
    kept = [(row["problem_id"], row["index"]) for row in map(json.loads, lines)]
    assert sorted(kept) == sorted(request.key for request in requests)
    part.write_text("".join(lines[:20]) + lines[20][:9])
    assert draw(*tiny, requests, DECODING, part=part, batch_size=8) == whole
    again = part.read_text().splitlines(keepends=True)
    assert again[:20] == lines[:20] and sorted(again) == sorted(lines)


@pytest.mark.parametrize("how", [SHARED, PADDED])
def test_an_answer_ends_before_its_stop_string(how):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    ids = [5, 6, 7]
    free = [Request(f"{i}", 0, ids, 40) for i in range(6)]
    for request, whole in zip(free, draw(model, tokenizer, free, DECODING), strict=True):
        text = completion_text(tokenizer, ids, whole)
        stop = text[9:12]
        asked = [Request(request.name, 0, ids, 40, (stop, "never there"))]
        (cut,) = draw(model, tokenizer, asked, DECODING, how=how)
        assert cut == whole[: len(cut)] and len(cut) < len(whole)
        kept = completion_text(tokenizer, ids, cut)
        at = text.find(stop)
        assert stop not in kept and text[:at].startswith(kept)
        more = completion_text(tokenizer, ids, whole[: len(cut) + 1])
        assert len(more) > at or len(more) == len(kept)
        reason = stop_reason(asked[0], Drawn(cut), limits_of(model, tokenizer))
        assert reason == STRING or cut[-1] in stop_ids(model.generation_config, tokenizer)


def test_ids_before_a_stop_string_decode_to_what_is_kept():
    tokenizer = tiny_tokenizer()
    text = "    return 1\n\n\ndef g():\n    pass\n"
    ids = tokenizer(text)["input_ids"]
    count = before_stop(tokenizer, [], ids, ("\nclass", "\ndef"))
    kept = tokenizer.decode(ids[:count])
    assert text.startswith(kept) and kept.rstrip() == "    return 1" and "def" not in kept
    assert before_stop(tokenizer, [], ids, ("\nclass",)) is None
    assert before_stop(tokenizer, [], ids, ("    return",)) == 0


def cut_by_hand(tokenizer, prompt, ids, stops):
    """Token by token: at the first that completes a string, what decodes to the text before it."""
    for end in range(1, len(ids) + 1):
        text = completion_text(tokenizer, prompt, ids[:end])
        if places := [text.find(stop) for stop in stops if stop in text]:
            kept = [n for n in range(end) if text[: min(places)].startswith(
                completion_text(tokenizer, prompt, ids[:n]))]  # fmt: skip
            return max(kept)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_cut_at_the_same_token_whenever_it_is_looked_at(kind):
    """Also with the string in the prompt, over tokens' borders, at the end, and nowhere."""
    tokenizer = tokenizer_of(kind)
    prompt = render_prompt(tokenizer, Prompt("p", None, PROMPT + COMPLETION))
    ids = continuation_ids(tokenizer, prompt, COMPLETION)
    text = completion_text(tokenizer, prompt, ids)
    assert text == COMPLETION
    spans = [text[a : a + n] for n in (1, 2, 5) for a in range(len(text) - n + 1)]
    for stops in [*((span,) for span in spans), ("return x", "urn"), ("é", "\n"), (text,), ("#",)]:
        expected = cut_by_hand(tokenizer, prompt, ids, stops)
        cuts = [before_stop(tokenizer, prompt, ids[:n], stops) for n in range(len(ids) + 1)]
        seen = [cut for cut in cuts if cut is not None]
        assert {*seen} == ({expected} if expected is not None else set()), stops
        assert cuts[-1] == expected and cuts == [None] * (len(cuts) - len(seen)) + seen
        if expected is not None:
            kept = completion_text(tokenizer, prompt, ids[:expected])
            assert text.startswith(kept) and not any(stop in kept for stop in stops)


def test_a_stop_string_may_begin_in_what_an_answer_has_already():
    """As `branch` forces tokens: these count as the answer's, the prompt's do not."""
    tokenizer = tiny_tokenizer()
    prompt, begun, more = (text_ids(tokenizer, each) for each in ("a\n", "b\n", "def f():\n"))
    answer = Answer(0, [*prompt, *begun], 20, ("\ndef",), len(begun))
    assert answer.extend([*more], set(), tokenizer) and answer.new == []
    answer = Answer(0, [*prompt, *begun], 20, ("\ndef",))
    assert not answer.extend([*more], set(), tokenizer) and answer.new == more


def test_answers_with_stop_strings_are_the_same_whatever_is_beside_them(tiny):
    model, tokenizer = tiny
    free = requests_of(tiny, n=1, rooms=(32, 9, 17))
    asked, expected, whole = [], [], draw(*tiny, free, DECODING)
    for request, ids in zip(free, whole, strict=True):
        text = completion_text(tokenizer, request.ids, ids)
        stop = (text[len(text) // 2 :][:3] or "x", text[-2:] or "y")  # in the middle, at the end
        asked.append(replace(request, stop=stop if len(asked) % 5 else ()))
        expected.append(ids[: before_stop(tokenizer, request.ids, ids, asked[-1].stop)])
    shorter = [len(one) < len(other) for one, other in zip(expected, whole, strict=True)]
    assert len(asked) // 2 < sum(shorter) < len(asked) - 3
    for how, size in ((SHARED, 3), (SHARED, 64), (PADDED, 7), (EQUAL, 64), (ALONE, 1)):
        assert draw(model, tokenizer, asked, DECODING, how=how, batch_size=size) == expected, how


def test_a_row_says_its_style_and_may_be_empty(tiny):
    model, tokenizer = tiny
    plain = Prompt("p", None, "def solve(xs):\n")
    (row,) = sample(model, tokenizer, [plain], Decoding(0), max_new_tokens=8)
    assert row["style"] == "raw" and "stop" not in row and row["completion"]
    stop = {"style": "raw", "stop": [row["completion"][:2]]}
    ended = Prompt("p", None, "def solve(xs):\n", stop)
    (row,) = sample(model, tokenizer, [ended], Decoding(0), max_new_tokens=8)
    assert (row["completion"], row["completion_ids"], row["finished"]) == ("", [], True)
    assert row["stop"] == stop["stop"]
    (row,) = sample(model, tokenizer, PROMPTS[:1], Decoding(0), max_new_tokens=8)
    assert row["style"] == "chat"

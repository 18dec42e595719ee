"""Reading texts to probe: which fields of a row count, and what a person is told otherwise."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_jsonl
from ssd_probe.problems.texts import read_texts

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "z"}
QUESTION = {"question_id": "abc_a", "question_content": "Add.", "starter_code": "class S:\n"}
SAMPLES = [
    {"sample_id": "a", "problem_id": "p", "prompt": "x", "completion": "y", "seed": 1},
    {"problem_id": "p", "prompt_ids": [1], "completion_ids": [2, 3]},
    {"messages": [USER], "completion": "z"},
    {"messages": [USER, ASSISTANT], "task_id": 7},
    {"prompt": [USER], "completion": "y", "completion_ids": [5], "prompt_ids": [4]},
]


def refused(source, message):
    """Assert that the source is refused in one line that says this."""
    with pytest.raises(UserError, match=message) as caught:
        read_texts([source])
    assert "\n" not in str(caught.value)


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def write(request, tmp_path):
    """Writes rows as a file s.jsonl, s.jsonl.gz or s.parquet."""

    def write(rows):
        path = tmp_path / f"s.{request.param}"
        if request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        elif request.param == "jsonl":
            write_jsonl(path, rows)
        else:
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        return path

    return write


def test_samples(write):
    # Parquet needs the columns of its first row, and gives every row all of them.
    keys = {key for row in SAMPLES for key in row} - {"task_id", "prompt"}
    rows = [dict.fromkeys(sorted(keys)) | row for row in SAMPLES[:4]]
    rows[3]["problem_id"] = str(rows[3].pop("task_id"))
    texts = read_texts([write(rows)])
    assert [text.sample_id for text in texts] == ["a", "p#1", "s:3#0", "7#0"]
    assert [text.kind for text in texts] == ["sample"] * 4
    assert (texts[0].prompt, texts[0].completion) == ("x", "y")
    assert (texts[1].prompt_ids, texts[1].completion_ids) == ([1], [2, 3])
    assert texts[2].messages == texts[3].messages == [USER]
    assert texts[3].completion == "z"


def test_token_ids_stand_beside_the_text_they_win_over(tmp_path):
    path = tmp_path / "s.jsonl"
    write_jsonl(path, SAMPLES[4:])
    (text,) = read_texts(path)
    assert (text.messages, text.completion) == ([USER], "y")
    assert (text.prompt_ids, text.completion_ids) == ([4], [5])


def test_parquet_messages_lose_the_keys_they_do_not_have(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    path = tmp_path / "s.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": [call, USER], "completion": "z"}]), path)
    assert read_texts(path)[0].messages == [call, USER]


def test_human_eval_problem_file(write):
    problem = {"task_id": "T/0", "prompt": "def f():\n", "entry_point": "f", "test": "..."}
    solved = problem | {"canonical_solution": "    return 1\n"}
    (text,) = read_texts([write([solved])])
    assert (text.sample_id, text.problem_id, text.kind) == ("T/0#0", "T/0", "sample")
    assert (text.prompt, text.completion) == ("def f():", "\n    return 1\n")  # as `humaneval`
    sampled = solved | {"completion": "    return 1\n"}
    (text,) = read_texts([write([sampled])])
    assert (text.prompt, text.completion) == ("def f():\n", "    return 1\n")
    (text,) = read_texts([write([problem])])  # without a solution its statement is what is scored
    assert (text.prompt, text.completion, text.kind) == (None, "def f():\n", "source")


def test_live_code_bench_files(write):
    (text,) = read_texts([write([QUESTION | {"private_test_cases": "eJx..."}])])
    assert (text.sample_id, text.kind, text.prompt) == ("abc_a#0", "source", None)
    assert text.completion == "Add.\n\nclass S:\n"
    saved = QUESTION | {"code_list": ["a", "b"], "output_list": ["A", "B"], "pass@1": 0.5}
    first, second = read_texts([write([saved])])
    assert (first.sample_id, second.sample_id) == ("abc_a#0", "abc_a#1")
    assert (first.prompt, first.completion) == ("Add.\n\nclass S:\n", "A")
    assert second.completion == "B"
    (text,) = read_texts([write([QUESTION | {"solution": "c", "starter_code": ""}])])
    assert (text.prompt, text.completion) == ("Add.", "c")
    named = QUESTION | {"sample_id": "n", "code_list": ["a", "b"]}
    assert [text.sample_id for text in read_texts([write([named])])] == ["n#0", "n#1"]


def test_human_eval_package():
    texts = read_texts("humaneval")
    assert len(texts) == 164
    assert texts[0].sample_id == "HumanEval/0" and texts[0].completion.startswith("\n    for ")


def test_a_file_is_read_no_further_than_the_limit(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SAMPLES[0]) + "\n{")
    assert len(read_texts([path], limit=1)) == 1
    refused(path, r"s\.jsonl:2: not valid JSON")
    with pytest.raises(UserError, match="limit 0: must be at least 1"):
        read_texts([path], limit=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"completion": "y"}', r"s\.jsonl:1: no prompt; give"),
        ('{"prompt": "x"}', r"s\.jsonl:1: no completion; give"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "no completion"),
        ('{"messages": [{"role": "assistant", "content": "q"}]}', "no message before"),
        (
            '{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": []}]}',
            "content is text, or parts of text; found a list",
        ),
        ('{"prompt": "x", "completion": 1}', "`completion` must be a string, found a number"),
        ('{"prompt": "x", "completion": {}, "completion_ids": [1]}', "`completion` must be a str"),
        ('{"prompt": "x", "canonical_solution": []}', "`canonical_solution` must be a string"),
        ('{"prompt": 1, "completion": "y"}', "a prompt is a string, or a list of messages"),
        ('{"prompt": "x", "messages": [], "completion": "y"}', "both `prompt` and `messages`"),
        ('{"question_content": 1, "solution": "y"}', "`question_content` must be a string"),
        ('{"question_content": "a", "starter_code": 1}', "`starter_code` must be a string"),
        ('{"question_content": "a", "code_list": "y"}', "`code_list` must be a list of strings"),
        ('{"question_content": "a", "output_list": [1]}', "`output_list` must be a list of str"),
        ('{"question_id": [], "question_content": "a"}', "problem_id must be a string, found a l"),
        ('{"prompt": "x", "completion": "y", "prompt_ids": [true]}', "`prompt_ids` must be"),
        ('{"prompt": "x", "completion": "y", "prompt_ids": [-1]}', "`prompt_ids` must be"),
        ('{"prompt": "x", "completion": "y", "completion_ids": "1"}', "`completion_ids` must be"),
        ('{"prompt": "x", "completion": "y", "sample_id": []}', "sample_id must be a string"),
        ('{"prompt": "x", "completion": "y", "sample_id": 1}\n' * 2, r"s\.jsonl:2: sample_id '1'"),
        ('{"prompt": "x", "completion": "\\ud800"}', r"s\.jsonl:1: half a surrogate pair"),
        ("[1]", r"s\.jsonl:1: expected a JSON object, found a list"),
        ("x", r"s\.jsonl:1: not valid JSON"),
        ("", "the file is empty"),
    ],
)
def test_bad_rows(tmp_path, line, message):
    path = tmp_path / "s.jsonl"
    path.write_text(line)
    refused(path, message)


def test_bad_parquet(tmp_path):
    path = tmp_path / "s.parquet"
    refused(path, r"s\.parquet: no such file")
    rows = [{"prompt": "x", "completion": text} for text in ("a" * 500, "b" * 500)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", row_group_size=1)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-20], whole[20:], b"\0" * 60 + whole[60:]):
        path.write_bytes(damaged)
        refused(path, r"s\.parquet: damaged or not Parquet")
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), path)
    refused(path, "the table has no rows")
    pq.write_table(pa.table({"prompt": ["x", "y"], "completion": ["x", None]}), path)
    refused(path, r"s\.parquet: row 2: no completion")
    pq.write_table(pa.table({"entropy": [1.0]}), path)
    refused(path, r"s\.parquet: row 1: no prompt")
    pq.write_table(pa.table({"prompt": ["x"], "completion_ids": [[0.5]]}), path)
    refused(path, r"row 1: `completion_ids` must be a list of token ids")
    pq.write_table(pa.table({"prompt": [b"x"], "completion": ["y"]}), path)
    refused(path, r"row 1: a prompt is a string")


def test_texts_from_source_files(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "b.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "pkg" / "a.py").write_text("y = 'é'\n", encoding="utf-8")
    (tmp_path / "note.md").write_text("hello")
    texts = read_texts([tmp_path, tmp_path / "note.md"])
    assert [text.completion for text in texts] == ["x = 1\r\n", "y = 'é'\n", "hello"]
    assert {text.kind for text in texts} == {"source"}
    assert texts[0].path == (tmp_path / "b.py").as_posix()


def test_bad_source_files(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    refused(tmp_path / "latin.txt", "not UTF-8")
    refused(tmp_path, r"no \.py files")
    refused(tmp_path / "nothing.py", "no such file")
    refused(
        "tiny:test", r"tiny:test: no such file; texts are samples .*, basics\[:SPLIT\] or stdlib"
    )
    with pytest.raises(UserError, match="no texts given"):
        read_texts([])
    (tmp_path / "a.py").write_text("x")
    with pytest.raises(UserError, match="again"):
        read_texts([tmp_path, tmp_path / "a.py"])

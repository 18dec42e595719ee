"""How a problem is asked: in chat, or as text to continue; and the standard library's functions."""

import ast
import copy
import json
import platform

import pytest

from ssd_probe.commands.sample import sample_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.models.tokens import turn_ends
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.stdlib import LINES, SPLITS, stdlib
from ssd_probe.problems.tasks import is_raw, load_tasks, program
from ssd_probe.problems.texts import read_texts
from tests.models import save, tiny_model, tiny_tokenizer

FEW = SampleConfig(max_new_tokens=3)
LCB = {
    "question_content": "Add one.", "question_id": "1", "starter_code": "def f(x):",
    "public_test_cases": '[{"input": "1", "output": "2", "testtype": "functional"}]',
    "private_test_cases": "[]", "metadata": '{"func_name": "f"}',
}  # fmt: skip


@pytest.mark.parametrize("source", ["humaneval", "basics", "stdlib", "lcb"])
def test_a_benchmark_is_asked_in_both_styles(source, tmp_path):
    if source == "lcb":
        (tmp_path / "l.jsonl").write_text(json.dumps(LCB))
        source = str(tmp_path / "l.jsonl")
    (chat,), (raw,) = (read_prompts(source, 1, style) for style in ("chat", "raw"))
    assert chat.problem_id == raw.problem_id
    assert chat.text is None and "```python\n" in chat.messages[-1]["content"] and chat.stop == ()
    assert raw.messages is None and raw.meta["style"] == "raw" and raw.stop
    assert "\n```" in raw.stop or "```" in raw.stop


def test_without_a_style_prompts_are_as_ever():
    assert read_prompts("humaneval", 1)[0].text and not read_prompts("humaneval", 1)[0].stop
    assert read_prompts("basics", 2) == read_prompts("basics", 2, "chat")
    with pytest.raises(UserError, match="asked in chat; leave out --style raw"):
        read_prompts("tiny:dev", 1, "raw")


def test_the_program_of_a_raw_answer_is_all_of_it(tmp_path):
    (tmp_path / "l.jsonl").write_text(json.dumps(LCB))
    (task,) = load_tasks(tmp_path / "l.jsonl").values()
    code = "def f(x):\n    return x + 1\n"
    assert program(task, code) is None and program(task, code, raw=True) == code
    (prompt,) = read_prompts(str(tmp_path / "l.jsonl"), 1, "raw")
    assert prompt.text.endswith("```python\n")
    assert is_raw(prompt.meta) and not is_raw({"style": "raw"}) and not is_raw({"stop": ["a"]})
    basics = load_tasks("basics:dev")
    (first,) = read_prompts("basics:dev", 1, "raw")
    body = "    return '''\n~~~python\na\n~~~\n'''\n"
    assert program(basics[first.problem_id], body, raw=True) == first.text + body


@pytest.mark.parametrize("template", [True, False], ids=["chat model", "base model"])
def test_auto_is_chat_where_there_is_a_template(template, tmp_path, capsys):
    model, tokenizer = tiny_model("llama"), copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = tokenizer.chat_template if template else None
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    out = tmp_path / "s.jsonl"
    rows = sample_stage(str(tmp_path / "m"), "basics:dev", Decoding(0), out, FEW, limit=2)
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    style = "chat" if template else "raw"
    assert {row["style"] for row in rows} == {record["style"]} == {style}
    assert record["doubts"] == [] and "template" not in capsys.readouterr().err


def test_a_model_given_the_other_kind_of_prompt_is_told_of(tmp_path, capsys):
    chat = save(tmp_path / "chat", "llama")
    out, decoding = tmp_path / "s.jsonl", Decoding(0)
    sample_stage(str(chat), "basics:dev", decoding, out, FEW, limit=2, style="raw")
    assert "2 of 2 prompts are raw text, and this is a chat model" in capsys.readouterr().err
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    assert record["style"] == "raw" and len(record["doubts"]) == 1
    with pytest.raises(UserError, match="prompts: "):
        sample_stage(str(chat), "basics:dev", decoding, out, FEW, limit=2, style="chat")

    base = copy.deepcopy(tiny_tokenizer())
    assert turn_ends(base) == {2}
    base.eos_token = "<|endoftext|>"
    model = tiny_model("llama", eos_token_id=0)
    model.save_pretrained(tmp_path / "base")
    base.save_pretrained(tmp_path / "base")
    sample_stage(str(tmp_path / "base"), "basics:dev", decoding, tmp_path / "b", FEW, limit=1)
    assert "1 of 1 prompts are chat, and this looks like a base model" in capsys.readouterr().err
    with pytest.raises(UserError, match="style = 'chatty': must be one of auto, chat, raw"):
        sample_stage(str(chat), "basics", decoding, out, FEW, style="chatty")


def test_the_standard_librarys_functions():
    rows = stdlib()
    assert len(rows) > 500 and rows == sorted(rows, key=lambda row: row["task_id"])
    names = [row["task_id"] for row in rows]
    assert len({*names}) == len(names) and "stdlib/textwrap.dedent" in names
    assert not any(name.startswith(("stdlib/test.", "stdlib/idlelib.")) for name in names)
    parts = {split: stdlib(split) for split in SPLITS}
    assert sorted(row["task_id"] for part in parts.values() for row in part) == names
    assert len(parts["ssd"]) > len(parts["test"]) > 100 < len(parts["dev"])
    for row in rows:
        (function,) = ast.parse(row["prompt"] + row["canonical_solution"]).body
        (head,) = ast.parse(row["prompt"]).body
        assert function.name == row["entry_point"] and ast.get_docstring(function)
        assert len(head.body) == 1 and ast.get_docstring(head) == ast.get_docstring(function)
        assert len(row["canonical_solution"].splitlines()) in LINES
        assert row["python"] == platform.python_version()


def test_the_standard_library_as_prompts_and_texts_and_never_as_tasks():
    prompts, texts = read_prompts("stdlib:dev", 3), read_texts("stdlib:dev", 3)
    assert [p.problem_id for p in prompts] == [t.problem_id for t in texts]
    assert prompts[0].meta["python"] == platform.python_version()
    assert texts[0].prompt in prompts[0].messages[0]["content"] and texts[0].completion
    with pytest.raises(UserError, match="stdlib:dev: these functions have no tests"):
        load_tasks("stdlib:dev")
    with pytest.raises(UserError, match="stdlib:train: no such split; choose stdlib, stdlib:ssd"):
        read_prompts("stdlib:train")

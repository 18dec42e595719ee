"""How a problem is asked: in chat, or as text to continue; and the standard library's functions."""

import copy
import json

import pandas as pd
import pytest

from ssd_probe.commands.evaluate import evaluate_stage
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import load_generation
from ssd_probe.models.tokens import text_ids, turn_ends
from ssd_probe.probing.probe import probe
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.rows import stop_strings
from ssd_probe.problems.tasks import load_tasks, program
from ssd_probe.problems.texts import read_texts
from tests.models import CHATML, save, tiny_model, tiny_tokenizer

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
    assert prompt.stop == stop_strings(prompt.meta) == ("```",)
    assert stop_strings({"style": "raw"}) == stop_strings({"style": "chat", "stop": ["a"]}) == ()
    basics = load_tasks("basics:dev")
    (first,) = read_prompts("basics:dev", 1, "raw")
    body = "    return '''\n~~~python\na\n~~~\n'''\n"
    task = basics[first.problem_id]
    assert program(task, body, raw=True) == task.prefix + body
    assert task.prefix == first.text + "\n"


def test_a_raw_prompt_ends_where_a_token_does():
    """A line's end and the indentation behind it are one token, in which no prompt may end."""
    tokenizer, apart = tiny_tokenizer(), 0
    for prompt, text in zip(read_prompts("basics", style="raw"), read_texts("basics"), strict=True):
        whole = text_ids(tokenizer, text.prompt + text.completion)
        assert text.prompt == prompt.text and text.completion.startswith("\n    ")
        ids, torn = (text_ids(tokenizer, each) for each in (prompt.text, prompt.text + "\n"))
        assert whole[: len(ids)] == ids
        apart += whole[: len(torn)] != torn
    assert apart > 150  # the prompts as they stand in the benchmark


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
    assert {row["style"] for row in rows} == {record["settings"]["style"]} == {style}
    assert record["doubts"] == [] and "template" not in capsys.readouterr().err


def test_a_model_given_the_other_kind_of_prompt_is_told_of(tmp_path, capsys):
    chat = save(tmp_path / "chat", "llama")
    out, decoding = tmp_path / "s.jsonl", Decoding(0)
    sample_stage(str(chat), "basics:dev", decoding, out, FEW, limit=2, style="raw")
    assert "2 of 2 prompts are raw text, and this is a chat model" in capsys.readouterr().err
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    assert record["settings"]["style"] == "raw" and len(record["doubts"]) == 1
    with pytest.raises(UserError, match="style: raw -> chat; use another --out"):
        sample_stage(str(chat), "basics:dev", decoding, out, FEW, limit=2, style="chat")
    with pytest.raises(UserError, match="style = 'chatty': must be one of auto, chat, raw"):
        sample_stage(str(chat), "basics", decoding, out, FEW, style="chatty")


def base_model(folder):
    """A base model that ships with a chat template: the token that ends a turn ends no answer."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.eos_token = "<|endoftext|>"
    tiny_model("llama", eos_token_id=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("generation", [True, False], ids=["generation config", "config alone"])
def test_a_base_model_with_a_template_is_asked_as_text(generation, tmp_path, capsys):
    base = base_model(tmp_path / "base")
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert load_generation(base).eos_token_id == load_generation(adapter).eos_token_id == 0
    if not generation:
        (tmp_path / "base/generation_config.json").unlink()
    (row,) = sample_stage(base, "basics:dev", Decoding(0), tmp_path / "a", FEW, limit=1)
    assert row["style"] == "raw" and row["stop"] and "prompts are" not in capsys.readouterr().err
    about = {"limit": 1, "style": "chat"}
    (row,) = sample_stage(base, "basics:dev", Decoding(0), tmp_path / "b", FEW, **about)
    assert row["style"] == "chat"
    assert "1 of 1 prompts are chat, and this looks like a base model" in capsys.readouterr().err
    with pytest.raises(UserError, match="style = 'chatty': must be one of auto, chat, raw"):
        sample_stage(base, "basics", Decoding(0), tmp_path / "c", FEW, style="chatty")


@pytest.mark.parametrize(("template", "ends"), [
    (CHATML, {2}), ("{{ raise_exception('no') }}", set()), ("{{ 1 / 0 }}", set()),
    ("<|im_start|>x", set()), ("{% for m in messages %}{{ m.content }}{% endfor %}", set()),
    ("{% for m in messages %}<|im_start|>{{ m.content }}<|endoftext|>{% endfor %}", {0}),
])  # fmt: skip
def test_what_ends_a_turn_of_a_template(template, ends):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    assert turn_ends(tokenizer) == ends


def test_a_template_that_refuses_is_one_line_and_leaves_nothing(tmp_path):
    folder = save(tmp_path / "m", "llama")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only poems') }}")
    with pytest.raises(UserError, match=r"the chat template refuses these messages \(only poems"):
        sample_stage(str(folder), "basics", Decoding(0), tmp_path / "s", FEW, limit=1)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("s")]


def test_records_from_before_styles_are_gone_on_with_where_nothing_changed(tmp_path):
    chat, out, decoding = str(save(tmp_path / "chat", "llama")), tmp_path / "s", Decoding(0)
    rows = sample_stage(chat, "basics:dev", decoding, out, FEW, limit=2)
    record = tmp_path / "s.run.json"
    content = json.loads(record.read_text())
    assert content["settings"].pop("style") == "chat"
    record.write_text(json.dumps(content))
    old = [{key: value for key, value in row.items() if key != "style"} for row in rows]
    write_jsonl(out, old)
    assert sample_stage(chat, "basics:dev", decoding, out, FEW, limit=2) == old
    with pytest.raises(UserError, match="prompts: "):
        sample_stage(chat, "basics:dev", decoding, out, FEW, limit=2, style="raw")


def test_stop_strings_of_ones_own_are_checked(tmp_path):
    file = tmp_path / "p.jsonl"
    asked = {"prompt": "a", "style": "raw", "stop": ["b"]}
    chat = asked | {"prompt": [{"role": "user", "content": "a"}]}
    write_jsonl(file, [asked, chat, asked | {"style": "x"}])
    assert [prompt.stop for prompt in read_prompts(file)] == [("b",), (), ()]
    for bad in ("b", [""], [1], {"b": 1}):
        write_jsonl(file, [asked, asked | {"stop": bad}])
        with pytest.raises(UserError, match=r"p.jsonl:2: `stop` must be a list of strings"):
            read_prompts(file)


@pytest.mark.parametrize("source", ["humaneval", "basics:dev", "stdlib:dev"])
def test_the_same_tokens_of_a_solution_are_scored_in_both_styles(source):
    model, tokenizer = tiny_model("llama", max_position_embeddings=4096), tiny_tokenizer()
    raw, chat = (
        probe(model, read_texts(source, 3, style), tokenizer=tokenizer, progress=False)
        for style in ("raw", "chat")
    )
    assert chat["position"].gt(raw["position"]).all() and set(chat["segment"]) == {"code"}
    same = ["sample_id", "token_id", "token", "segment", "syntax"]
    pd.testing.assert_frame_equal(raw[same], chat[same])
    begin = raw.groupby("sample_id")["token"].first()
    assert begin.str.startswith("\n").all()  # with its indentation, as a model says it
    with pytest.raises(UserError, match="style = 'auto': must be chat or raw"):
        read_texts(source, 3, "auto")


def test_raw_answers_that_are_empty_or_cut_go_through_every_command(tmp_path):
    """A stop string may come first, and what is left is judged, counted and left out, no more."""
    model, file = str(save(tmp_path / "m", "llama")), tmp_path / "s.jsonl"
    tokenizer, samples = tiny_tokenizer(), []
    for number, (body, finished) in enumerate([("", True), ("\n    a\n", False), ("\n b\n", True)]):
        prompt = read_prompts("basics:dev", 3, "raw")[number]
        ids, made = text_ids(tokenizer, prompt.text), text_ids(tokenizer, body)
        samples.append({"sample_id": str(number), "problem_id": prompt.problem_id,
                        "prompt": prompt.text, "completion": body, "prompt_ids": ids,
                        "completion_ids": made, "finished": finished, **prompt.meta})  # fmt: skip
    write_jsonl(file, samples)
    frame = probe(model, read_texts([file]), progress=False)
    assert frame["sample_id"].value_counts().to_dict() == {
        row["sample_id"]: len(row["completion_ids"]) for row in samples if row["completion_ids"]
    }
    train_stage(model, file, TrainConfig(max_steps=1, drop_unfinished=True), tmp_path / "t")
    record = json.loads((tmp_path / "t/run.json").read_text())
    assert record["dropped"] == {"empty or of one line": 1, "cut by their length": 1}
    assert record["used"] == 1
    unboxed = sandbox.obstacle() is not None
    found = evaluate_stage("basics:dev", file, [1], unsandboxed=unboxed).result
    assert [row["detail"] for row in found["results"]][0] == "no code in the answer"
    assert found["without_code"] == pytest.approx(1 / 3)
    write_jsonl(file, samples[:1])
    with pytest.raises(UserError, match="nothing to train on: 1 of 1 samples left out"):
        train_stage(model, file, TrainConfig(max_steps=1), tmp_path / "u")
    with pytest.raises(UserError, match="nothing to score: the texts are empty"):
        probe(model, read_texts([file]), progress=False)


def test_an_answer_judged_as_raw_is_not_the_one_judged_as_chat(tmp_path):
    """The same letters are another program where they are code from end to end."""
    (prompt,) = read_prompts("basics:dev", 1, "raw")
    row = {"task_id": prompt.problem_id, "completion": "\n    return '''\n```python\n```\n'''\n"}
    file, out = tmp_path / "s.jsonl", tmp_path / "r.json"
    unboxed = sandbox.obstacle() is not None
    write_jsonl(file, [row])
    evaluate_stage("basics:dev", file, [1], out=out, unsandboxed=unboxed)
    write_jsonl(file, [row | {"style": "raw", "stop": ["\ndef"]}])
    with pytest.raises(UserError, match="samples: "):
        evaluate_stage("basics:dev", file, [1], out=out, unsandboxed=unboxed)

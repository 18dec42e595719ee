"""A declared loop: its file as read, what is wrong in one, presets, scale, a whole small run."""

from dataclasses import replace

import pytest

from ssd_probe.commands.loop.arms import rounds, write_corpus
from ssd_probe.commands.loop.declaration import loop_of
from ssd_probe.commands.loop.presets import NAMES, PAPER, choose
from ssd_probe.core.sample import usable
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.files.reading import read_jsonl
from ssd_probe.problems.rows import stop_strings
from ssd_probe.problems.tasks import load_tasks
from tests.models import save

FILE = """
model: tiny
prompts: tiny:ssd
arms:
  ssd: {T_train: 1.6, top_k: 20, top_p: 0.8}
  control: {T_train: 1.0}
  corpus: {from: text}
  round2: {from: ssd, T_train: 1.3}
training: {batch_size: 8}
T_eval: [1.0, 1.6]
dev: {problems: tiny:dev, n: 2}
test: {problems: tiny:test, n: 5, limit: 40}
text_limit: 30
quick: {test: {limit: 3}}
"""


def chosen(folder, text=FILE, **options):
    (folder / "loop.yaml").write_text(text)
    return choose(str(folder / "loop.yaml"), **options)


def test_a_file_is_read_and_its_record_reads_as_the_same(tmp_path):
    loop = chosen(tmp_path).loop
    assert [arm.name for arm in loop.candidates] == ["ssd", "round2"]
    assert loop.arm("ssd").decoding == Decoding(1.6, 20, 0.8)
    assert loop.arm("corpus").decoding is None and loop.arm("round2").source == "ssd"
    assert [[arm.name for arm in level] for level in rounds(loop)] == [
        ["ssd", "control", "corpus"], ["round2"],
    ]  # fmt: skip
    assert (loop.training.batch_size, loop.test.n, loop.test.limit) == (8, 5, 40)
    assert loop_of(loop.settings()) == loop
    quick = chosen(tmp_path, quick=True).loop
    assert quick == replace(loop, test=replace(loop.test, limit=3))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("model: tiny", "modle: tiny", "unknown key 'modle'; known: T_eval, arms"),
    ("prompts: tiny:ssd", "", "`prompts` is missing"),
    ("T_train: 1.6", "T_train: -1", "arms.ssd: temperature = -1"),
    ("from: ssd", "from: later", "arms.round2: from 'later' is no arm above it; known: text, ssd"),
    ("{T_train: 1.0}", "{top_k: 5}", "arms.control: `T_train` is missing"),
    ("corpus:", "main:", "arms.main: the name has a meaning"),
    ("batch_size: 8", "batch: 8", "training: unknown key 'batch'"),
    ("batch_size: 8", "batch_size: 0", "training: batch_size = 0: must be a whole number"),
    ("[1.0, 1.6]", "[hot]", "T_eval: ['hot'] must be a number"),
    ("dev: {problems: tiny:dev, n: 2}", "", "dev: is missing"),
    ("n: 5", "n: 0", "test.n: 0 must be a whole number"),
    ("text_limit: 30", "probed: [base, other]", "probed: no arm 'other'"),
    ("text_limit: 30", "labels: taste", "labels: 'taste'; known: support"),
    ("text_limit: 30", "more_seeds: [0]", "more_seeds: 0 is the seed"),
])  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(UserError) as error:
        chosen(tmp_path, FILE.replace(old, new, 1))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "loop.yaml"))


def test_scale_makes_everything_small(tmp_path):
    loop = chosen(tmp_path, scale=0.1).loop
    assert (loop.test.limit, loop.test.n, loop.text_limit, loop.dev.n) == (4, 1, 3, 1)
    for wrong in (0.0, 2.0):
        with pytest.raises(UserError, match="--scale"):
            chosen(tmp_path, scale=wrong)


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(UserError, match="no such file, and no preset; known: tiny, smollm2"):
        choose("smollm3")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_declaration(name):
    loop = choose(name).loop
    if name not in PAPER:
        return
    assert loop.arm("ssd").decoding == Decoding.preset(name, "train")
    assert loop.eval_decodings == (Decoding.preset(name, "eval"),)
    assert loop.baseline == Decoding.preset(name, "baseline")
    thinking = "thinking" in name or name == "gpt-oss-20b"
    assert loop.training.max_steps == (300 if thinking else 2500)


@pytest.mark.parametrize("style", ["chat", "raw"])
def test_the_corpus_own_solutions_are_answers_that_pass(style, tmp_path):
    text = FILE.replace("model: tiny", f"model: {save(tmp_path / 'm', 'llama')}")
    text = text.replace(
        "prompts: tiny:ssd", f"prompts: basics:dev\nprompt_limit: 4\nstyle: {style}"
    )
    write_corpus(chosen(tmp_path, text).loop, tmp_path / "s.jsonl", 0)
    rows = read_jsonl(tmp_path / "s.jsonl")
    assert [len(usable(rows)), *{bool(stop_strings(row)) for row in rows}] == [4, style == "raw"]
    unboxed = sandbox.obstacle() is not None
    found = evaluate(rows, load_tasks("basics:dev"), progress=False, unsandboxed=unboxed)
    assert found["verdict"].tolist() == ["pass"] * 4


def test_what_a_flag_changes_of_the_paper_is_a_deviation():
    plain = choose("qwen3-4b-instruct").deviations
    changed = choose("qwen3-4b-instruct", changes={"seed": 3}, scale=None).deviations
    assert set(changed) - set(plain) == {"seed: 0 -> 3"}
    assert any(line.startswith("engine: vLLM") for line in plain)
    assert choose("tiny", changes={"seed": 3}).deviations == []

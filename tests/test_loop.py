"""A declared loop: its file as read, what is wrong in one, presets, scale, a whole small run."""

import os
from dataclasses import replace

import pytest

from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.loop.arms import rounds, write_corpus
from ssd_probe.commands.loop.declaration import Arm, Rival
from ssd_probe.commands.loop.positions import text_source
from ssd_probe.commands.loop.presets import NAMES, PAPER, choose
from ssd_probe.commands.loop.reading import loop_of
from ssd_probe.commands.loop.run import run_stage
from ssd_probe.commands.run_folder import RunFolder, compared_at
from ssd_probe.core.config import TrainConfig
from ssd_probe.core.lanes import lanes
from ssd_probe.core.sample import usable
from ssd_probe.decoding import Decoding
from ssd_probe.errors import Resumable, UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.files.reading import read_jsonl
from ssd_probe.probing.table import Probe
from ssd_probe.problems.rows import stop_strings
from ssd_probe.problems.tasks import load_tasks
from ssd_probe.tiny.domain import tiny_problems
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
    ("text_limit: 30", "engine: server", "engine server: it serves one model"),
    ("text_limit: 30", "engine: vllm\nprocesses: 2", "processes: 2 draw side by side"),
    ("text_limit: 30", "engine_args: [a=1]", "--engine-arg: only with --engine vllm"),
    ("text_limit: 30", "certificates: [c.json, c.json]", "certificates: 'c.json' is there twice"),
    ("text_limit: 30", "certificates: [1]", "certificates: 1 must be a name"),
    ("text_limit: 30", "labels: taste", "labels: 'taste'; known: support"),
    ("text_limit: 30", "more_seeds: [0]", "more_seeds: 0 is the seed"),
    ("text_limit: 30", "more_seeds: [1, 1]", "more_seeds: 1 is there twice"),
    ("text_limit: 30", "seed: 4294967296", "seed: 4294967296 must be a whole number of at most"),
    ("text_limit: 30", f"n: {10**20}", f"n: {10**20} must be a whole number of at most"),
    ("text_limit: 30", "texts: []", "texts: none; name a source"),
    ("text_limit: 30", "texts: null", "texts: None must be a name"),
    ("text_limit: 30", "texts: [base, base]", "texts: 'base' is there twice"),
    ("text_limit: 30", "texts: [base, a/b.py, a-b.py]", "'base-on-a-b.py' is there twice"),
    ("text_limit: 30", "texts: [base, dev]\npredict: true", "'base-on-dev' is there twice"),
    ("[1.0, 1.6]", "[1, 1.0]", "T_eval: 1.0 is there twice"),
    ("[1.0, 1.6]", f"{10**400}", "T_eval: temperature = 1000"),
    ("n: 5", "n: null", "test.n: None must be a whole number"),
    ("{problems: tiny:test, n: 5, limit: 40}", "null", "test: must be a mapping"),
    ("tiny:test", "''", "test.problems: '' must be a name"),
    ("model: tiny", "model: ''", "model: '' must be a name"),
    ("model: tiny", "model: tiny\nmodel: other", "the key 'model' twice in one mapping"),
    ("control:", "ssd:", "the key 'ssd' twice in one mapping"),
    ("control:", "programs:", "arms.programs: the name has a meaning"),
    ("control:", "baseline:", "arms.baseline: the name has a meaning"),
    ("control:", "1: {T_train: 1}\n  '1':", "arms.1: is there twice"),
    ("control:", f"{'a' * 101}:", "a name is 100 bytes at most"),
    ("from: ssd", "from: [ssd]", "is no arm above it"),
    ("{limit: 3}", "{limits: 3}", "test: unknown key 'limits'"),
    ("text_limit: 30", "rivals: [min-p]", "rivals: policy min-p: min_p is missing"),
    ("text_limit: 30", "rivals: [nucleus(0.9)]", "rivals: policy 'nucleus(0.9)': must be NAME"),
    ("text_limit: 30", "rivals: [2]", "rivals: 2 must be a name"),
    ("text_limit: 30", "rivals: [min-p(0.1), 'min-p(min_p=0.1)']", "rivals: 'min-p-0.1' is there"),
])  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(UserError) as error:
        chosen(tmp_path, FILE.replace(old, new, 1))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "loop.yaml"))


def test_rivals_have_names_for_files_and_two_stage_the_main_arms_decoding(tmp_path):
    text = "rivals: [two-stage, ' two-stage ( ) ', 'two-stage(T_train=1.3)', min-p(0.10), top-h]"
    with pytest.raises(UserError, match="'two-stage' is there twice"):
        chosen(tmp_path, f"{FILE}{text}\n")
    once = text.replace(", ' two-stage ( ) '", "")
    loop = chosen(tmp_path, f"{FILE}{once}\n").loop
    assert loop_of(loop.settings()) == loop
    folder = RunFolder(tmp_path, loop)
    assert folder.rivals("round2") == {
        "two-stage": "two-stage(T_train=1.3, top_k=0, top_p=1.0)",
        "two-stage-1.3-20-0.8": "two-stage(T_train=1.3, top_k=20, top_p=0.8)",
        "min-p-0.1": "min-p(min_p=0.1)",
        "top-h-0.4": "top-h(top_h=0.4)",
    }
    assert folder.rivals("ssd")["two-stage"] == "two-stage(T_train=1.6, top_k=20, top_p=0.8)"
    cells = {cell.trained.name: cell for cell in folder.dev_cells("ssd")}
    assert {cells[name].trained.model for name in (*folder.rivals("ssd"), "base")} == {"tiny"}
    assert cells["two-stage"].decoding == cells["base"].decoding == Decoding(1.6, 20, 0.8)
    assert cells["min-p-0.1"].decoding == Decoding(1.6)  # as published
    assert len(folder.dev_cells()) == 10 and len(folder.dev_cells("ssd")) == 18


def test_a_rival_is_no_arm_of_its_name(tmp_path):
    text = FILE.replace("control:", "two-stage:")
    assert chosen(tmp_path, text)
    with pytest.raises(UserError, match="rivals: 'two-stage' is there twice"):
        chosen(tmp_path, f"{text}rivals: two-stage\n")


def test_a_run_of_before_there_were_rivals_goes_on(tmp_path):
    loop = chosen(tmp_path).loop
    assert "rivals" not in loop.recorded() and "rivals" in loop.settings()
    assert "rivals" in replace(loop, rivals=(Rival("top-h(top_h=0.4)"),)).recorded()


def test_names_that_are_numbers_are_names(tmp_path):
    text = FILE.replace("ssd: {", "1: {").replace("from: ssd", "from: 1")
    loop = chosen(tmp_path, text.replace("text_limit: 30", "probed: [base, main, 1]")).loop
    assert [arm.name for arm in loop.arms] == ["1", "control", "corpus", "round2"]
    assert loop.arm("round2").source == "1" and loop_of(loop.settings()) == loop


def test_what_has_defaults_may_be_left_out(tmp_path):
    for given in ("", "training: {}", "training: null"):
        loop = chosen(tmp_path, FILE.replace("training: {batch_size: 8}", given)).loop
        assert loop.training == TrainConfig()
    assert loop.branch is None
    assert chosen(tmp_path, f"{FILE}branch: {{}}\n").loop.branch == BranchConfig()


def test_texts_have_folders_of_their_own(tmp_path):
    texts = ["tiny:test", "tiny:dev", "a/" * 200 + "x.py", "é" * 200]
    loop = replace(chosen(tmp_path).loop, texts=tuple(texts))
    folder = RunFolder(tmp_path, loop)
    assert len({folder.probe("ssd", text) for text in texts}) == len(texts)
    for text in texts:
        folder.probe("s" * 100, text).mkdir(parents=True)  # a name that the disk takes
    assert folder.probe("ssd", texts[2]).name.endswith("-a-x.py")


@pytest.mark.parametrize("limit", [2, 1000])
def test_programs_are_of_their_own_split(tmp_path, limit):
    """Of more than a split has, all; and each split's are in a file of their own."""
    loop = replace(chosen(tmp_path).loop, texts=("tiny:test", "tiny:dev"), text_limit=limit)
    folder = RunFolder(tmp_path, loop)
    for split in ("test", "dev"):
        source = text_source(folder, {"main": "ssd"}, f"tiny:{split}")
        found = [row["problem_id"] for row in read_jsonl(source)]
        assert found == [each.problem_id for each in tiny_problems(split, limit)]


def test_a_further_seed_is_no_other_arm(tmp_path):
    text = FILE.replace("  control:", "  ssd-seed1:")
    assert chosen(tmp_path, text)
    with pytest.raises(UserError, match="'ssd-seed1' is there twice"):
        chosen(tmp_path, f"{text}more_seeds: 1\n")


@pytest.mark.xdist_group("odd")
@pytest.mark.slow(reason="a whole run, though of two problems, that others share")
def test_an_odd_declaration_is_run_to_its_end(odd_run):
    """No dev problems, a baseline, no truncation, an arm that is a number, few branches."""
    out, summary, said = odd_run
    assert summary["main"] == "1" and summary["chosen_on"] is None
    assert summary["best_temperature"] == {
        "base": 0.7, "1": 1.3, "é": 1.3, "two-stage-1.6-5-0.8": 1.3,
    }  # fmt: skip
    assert (summary["tested_at"]["base"]["top_k"], summary["tested_at"]["é"]["top_k"]) == (5, 20)
    said = " ".join(said.split())
    assert "each model at its declared T_eval" in said and "best for it on the dev" not in said
    assert "base top-k 5, top-p 1, others top-k 20, top-p 0.8, rivals by their own rules" in said
    doubt = "1 was trained on samples at T=1.6, which a probe's ranks do not tell"
    assert any(line.startswith(doubt) for line in summary["doubts"])
    for split, end in (("dev", ""), ("test", "-on-tiny-test")):
        asked = {problem.problem_id for problem in tiny_problems(split, 2)}
        for name in ("base", "1"):
            assert set(Probe.load(out / "probes" / f"{name}{end}").frame["problem_id"]) == asked
    assert summary["branch"]["outcomes"][-1]["positions"] == 1  # undecided


@pytest.mark.parametrize(("change", "message"), [
    ({"texts": ("/absent.py",)}, "texts: /absent.py: no such file"),
    ({"texts": ("tiny:absent",)}, "tiny:absent: no such split"),
    ({"style": "raw"}, "asked in chat"),
    ({"prompts": "tiny:absent"}, "tiny:absent: no such split"),
    ({"model": "/absent"}, "/absent"),
])  # fmt: skip
def test_a_wrong_input_leaves_nothing(tmp_path, change, message):
    """It is refused before anything is trained, so that mended it runs in the same folder."""
    found = chosen(tmp_path)
    wrong = found._replace(loop=replace(found.loop, **change))
    with pytest.raises(UserError, match=message):
        run_stage(wrong, tmp_path / "run", unsandboxed=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arms", "compared"), [
    ({"a": (1.6, 20, 0.8)}, (1.6, 20, 0.8)),
    ({"a": (1.2, 0, 1.0)}, (1.2, 10, 0.9)),  # as gpt-oss-20b: the vocabulary would be needed
    ({"a": (1.2, 100, 1.0)}, (1.2, 10, 0.9)),
    ({"a": (1.2, 0, 1.0), "main": (1.6, 30, 1.0)}, (1.6, 30, 1.0)),
])  # fmt: skip
def test_students_are_compared_by_what_a_probe_can_tell(tmp_path, arms, compared):
    loop = replace(
        chosen(tmp_path).loop,
        arms=tuple(Arm(name, Decoding(*d)) for name, d in arms.items()),
        top_k_eval=10,
        top_p_eval=0.9,
    )
    found = compared_at(RunFolder(tmp_path, loop), "a", list(arms)[-1])
    assert found == Decoding(*compared)


def test_a_killed_process_beside_others_is_one_line():
    with pytest.raises(Resumable, match="was killed.*the same command goes on"), lanes(1) as run:
        run(os._exit, [(9,)])


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
    assert "engine: vLLM 0.11 -> transformers" in plain
    other = choose("qwen3-4b-instruct", changes={"engine": "vllm"}).deviations
    assert set(other) - set(plain) == {"engine: vLLM 0.11 -> the vLLM that SSD_PROBE_VLLM names"}
    assert choose("tiny", changes={"seed": 3}).deviations == []

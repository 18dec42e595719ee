"""What a run would do is what it does: commands that parse, counts that add up, nothing fetched."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ssd_probe.cli.app import app, main
from ssd_probe.commands.loop.dry import dry_run
from ssd_probe.commands.loop.presets import PAPER, RELEASED, choose, released
from ssd_probe.commands.loop.sizes import ASSUMED, Size, amount, size_of
from ssd_probe.errors import UserError
from ssd_probe.models.checkpoints import bundled_checkpoint, load_model

COMMANDS = typer.main.get_command(app).commands


def commands_of(lines):
    return [shlex.split(line)[1:] for line in lines if line.startswith("ssd-probe ")]


def understood(words):
    """The command's parameters, as it would read them."""
    return COMMANDS[words[0]].make_context(words[0], list(words[1:])).params


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_preset_says_it_all_without_its_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = dry_run(choose(name), tmp_path / "r")
    said = "\n".join(lines)
    assert "assumed: its files are not here" in said and "engine: vLLM 0.11" in said
    commands = commands_of(lines)
    kinds = [words[0] for words in commands]
    tested = ["sample", "evaluate"] * 3  # base and student at T_eval, the base at its baseline
    assert kinds == ["sample", "train", *tested, *["probe", "probe", "compare"] * 2]
    for words in commands:
        assert "$" not in " ".join(words)
        understood(words)
    train = understood(commands[1])
    long = "instruct" in name
    assert (train["max_steps"], train["warmup_steps"]) == ((2500, 250) if long else (300, 50))
    sample = understood(commands[0])
    assert sample["limit"] == 10_168 and sample["max_new_tokens"] == 65_536
    tokens = 10_168 * 65_536
    assert f"tokens drawn for training: {amount(tokens)} (10,168 prompts" in said
    size = ASSUMED[choose(name).loop.model]
    assert f"{amount(16 * size.parameters)}B of weights, gradients" in said
    assert f"{amount(2 * size.parameters)}B of weights in bfloat16" in said
    assert "tokens, 64 of them at a time" in said and "; 32 at a time on a device" in said
    assert train["gradient_checkpointing"] and "without it more" not in said
    assert not any(tmp_path.iterdir())


def test_an_engine_draws_every_answer(tmp_path):
    asked = {"engine": "vllm", "engine_args": ["tensor_parallel_size=2"]}
    chosen = choose("qwen3-4b-instruct", changes=asked)
    for words in commands_of(dry_run(chosen, tmp_path / "r")):
        if words[0] == "sample":
            assert understood(words)["engine"] == "vllm"
            assert list(understood(words)["engine_arg"]) == ["tensor_parallel_size=2"]
    recorded = chosen.loop.recorded()
    assert (recorded["engine"], recorded["engine_args"]) == ("vllm", ["tensor_parallel_size=2"])
    assert "engine" not in choose("qwen3-4b-instruct").loop.recorded()


def test_the_stages_settings_are_the_loops(tmp_path):
    """The first arm's sample and train, typed, leave the records that the run leaves."""
    chosen = choose("smollm2")
    lines = dry_run(chosen, tmp_path / "r")
    words = commands_of(line for line in lines if "/T1.3" in line)
    sample, train = (understood(w) for w in words[:2])
    loop, arm = chosen.loop, chosen.loop.arm("T1.3")
    assert sample["temperature"] == arm.decoding.temperature and sample["n"] == loop.n
    assert str(sample["out"]) == str(tmp_path / "r/samples/T1.3.jsonl") == str(train["samples"])
    for name, value in loop.training.recorded().items():
        assert train[name] == value, name
    assert "--temperature ${T_T1_3} " in "\n".join(lines)  # which dev chooses
    predict, branch = (
        next(understood(words) for words in commands_of(lines) if words[0] == name)
        for name in ("predict", "branch")
    )
    assert predict["t_train"] == ["1,1.3,1.6"] and predict["t_eval"] == ["0.1,0.4,0.8"]
    assert branch["positions"] == loop.branch.positions and branch["per_token"] == 2
    probed = next(words for words in commands_of(lines) if words[-1] == str(predict["probe"]))
    assert understood(probed)["text"] == [f"{tmp_path}/r/evaluations/dev/base-T${{T_base}}.jsonl"]


def test_a_papers_preset_can_be_scaled_without_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loop = choose("qwen3-4b-thinking", scale=0.1).loop
    assert (loop.prompt_limit, loop.test.limit, loop.training.max_steps) == (1017, 13, 30)
    code, _, said = run(["run", "qwen3-4b-thinking", "--out", "o"], monkeypatch, capsys)
    assert code == 2 and "prompts: rstar-coder.jsonl: no such file; --prompts names others" in said
    assert not any(tmp_path.iterdir())


def test_rivals_are_sampled_from_the_base_on_dev_and_test(tmp_path):
    rivals = ["two-stage", "min-p(0.1)"]
    chosen = choose("tiny", changes={"rivals": rivals})
    plain, lines = dry_run(choose("tiny"), tmp_path / "r"), dry_run(chosen, tmp_path / "r")
    more = [words for words in commands_of(lines) if words not in commands_of(plain)]
    drawn = [understood(w) for w in more if w[0] == "sample" and "$" not in " ".join(w)]
    loop = chosen.loop
    assert [each["policy"] for each in drawn] == [
        policy
        for policy in ("two-stage(T_train=1.6, top_k=20, top_p=0.8)", "min-p(min_p=0.1)")
        for _ in loop.T_eval
    ]
    assert {each["model"] for each in drawn} == {"tiny"}
    assert [(each["temperature"], each["top_k"], each["top_p"]) for each in drawn] == [
        *((t, 20, 0.8) for t in loop.T_eval), *((t, 0, 1.0) for t in loop.T_eval),
    ]  # fmt: skip
    said = "\n".join(lines)
    assert "--temperature ${T_two_stage} " in said and "--temperature ${T_min_p_0_1} " in said
    shell = ["bash", "-nc", "\n".join(lines)]
    assert subprocess.run(shell, capture_output=True, check=True).stderr == b""
    typed = subprocess.run(
        ["bash", "-c", "T_two_stage=0.4; ssd-probe() { echo \"$@\"; }\n" + said],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "/evaluations/test/two-stage-T0.4.jsonl" in typed and "$" not in typed
    assert len(more) == 2 * 2 * (len(loop.T_eval) + 1)


def test_commands_are_right_where_a_path_needs_quotes(tmp_path):
    """A space and what a shell or a placeholder might take for its own."""
    out = tmp_path / "my $run" / "TEMPERATURE é"
    lines = dry_run(choose("tiny"), out)
    setting = "T_base=0.7; T_ssd=0.8; T_control=0.9; ssd-probe() { printf '%s\\0' \"$@\" END; }\n"
    typed = subprocess.run(
        ["bash", "-c", setting + "\n".join(lines)], capture_output=True, check=True
    ).stdout.decode()
    commands = [line.split("\0")[:-1] for line in typed.split("END\0") if line]
    assert len(commands) == len(commands_of(lines))
    for words in commands:
        understood(words)
        assert str(out) in " ".join(words)
    named = [words[-1] for words in commands if "--temperature" in words and "/test/" in words[-1]]
    assert [Path(name).name for name in named] == ["base-T0.7.jsonl", "ssd-T0.8.jsonl",
                                                   "control-T0.9.jsonl"]  # fmt: skip


def test_what_is_not_the_papers_says_so(tmp_path):
    said = "\n".join(dry_run(choose("smollm2", scale=0.25), tmp_path / "r"))
    assert "ssd-probe diff RUN paper" in said and "in the paper" not in said
    papers = "\n".join(dry_run(choose("qwen3-4b-instruct", scale=0.1), tmp_path / "r"))
    assert "# other than in the paper: prompt_limit: " in papers and "diff RUN" not in papers


def test_a_model_that_is_here_is_measured():
    size, source = size_of("tiny")
    model = load_model("tiny")
    assert source == "from its config"
    assert size == Size(sum(p.numel() for p in model.parameters()), 4, 128, 64, 614, single=True)
    assert size.weights == 4 * size.parameters  # float32, as it is loaded
    assert size_of("nobody/nothing") == (None, "unknown: its files are not here")


def test_assumed_sizes_are_those_of_the_published_shapes():
    """Counted again from the shapes, for the dense ones: embedding, attention, MLP, norms."""
    shapes = {"Qwen/Qwen3-4B-Instruct-2507": (9728, True),
              "meta-llama/Llama-3.1-8B-Instruct": (14_336, False)}  # fmt: skip
    for name, (width, tied) in shapes.items():
        s = ASSUMED[name]
        query = 32 * 128
        layer = s.hidden * (2 * query + 2 * s.kv + 3 * width + 2) + (2 * 128 if tied else 0)
        assert s.parameters == s.vocabulary * s.hidden * (2 - tied) + s.layers * layer + s.hidden


def run(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ssd-probe", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, *capsys.readouterr()


def test_from_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(["run", "tiny", "--dry-run"], monkeypatch, capsys)
    assert code == 0 and "--out runs/tiny/samples/ssd.jsonl" in out
    code, out, _ = run(["run", "tiny", "--dry-run", "--json"], monkeypatch, capsys)
    assert code == 0 and json.loads(out)["commands"][0].startswith("ssd-probe sample")
    code, _, said = run(["run", "tiny"], monkeypatch, capsys)
    assert code == 2 and "--out" in said
    code, _, said = run(["run", "released-4b", "--quick", "--out", "o"], monkeypatch, capsys)
    assert code == 2 and "only probed" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoints_are_not_fetched_unasked(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(["run", name, "--dry-run"], monkeypatch, capsys)
    assert code == 0 and "hf download apple/SimpleSD-4B-instruct" in out
    commands = commands_of(out.splitlines())
    assert [words[0] for words in commands] == ["probe", "compare"] * 2
    for words in commands:
        understood(words)
    code, _, said = run(["run", name, "--out", "o"], monkeypatch, capsys)
    assert code == 2 and re.search("Qwen3-4B-Instruct-2507 is not on this machine.*4 are", said)
    assert not any(tmp_path.iterdir())


def test_pairs_of_a_file_are_probed_and_compared(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundled_checkpoint(), "tuned")
    (tmp_path / "line.py").write_text("def solve(xs):\n    return sum(xs)\n")
    pair = "{base: tiny, tuned: ./tuned, T_train: 1.6, top_k: 20, top_p: 0.8}"
    (tmp_path / "pairs.yaml").write_text(f"pairs:\n  one: {pair}\ntexts: line.py\n")
    code, out, said = run(["run", "pairs.yaml", "--out", "o", "--json"], monkeypatch, capsys)
    assert code == 0, said
    assert json.loads(out)["pairs"]["one"]["sentences"]
    assert (tmp_path / "o/probes/one/probe.json").exists()
    assert (tmp_path / "o/one/comparison.json").exists()
    with pytest.raises(UserError, match=r"bad.yaml: pairs.one: `tuned` is missing"):
        (tmp_path / "bad.yaml").write_text("pairs: {one: {base: tiny, T_train: 1}}\ntexts: x\n")
        released("bad.yaml")

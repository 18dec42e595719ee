"""The command line: fast help, one-line errors with their exit codes, resumable interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ssd_probe.cli.app import main
from ssd_probe.commands.evaluate import Evaluated
from ssd_probe.execution.sandbox import obstacle

COMMANDS = (
    "run",
    "demo",
    "sample",
    "train",
    "probe",
    "compare",
    "diff",
    "evaluate",
    "export",
    "sweep",
    "figures",
    "power",
    "import",
    "predict",
    "report",
    "toy",
    "view",
    "doctor",
    "branch",
    "fetch",
)


def run(*arguments, **options):
    command = [sys.executable, "-m", "ssd_probe.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """Run a command in `tmp_path` and in this process: importing torch takes seconds."""

    def run_here(*arguments):
        words = ["ssd-probe", *map(str, arguments)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        return subprocess.CompletedProcess(words, stopped.value.code, *capfd.readouterr())

    return run_here


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)], ids=str)
def test_help_shows_examples_and_imports_nothing_heavy(command):
    probe = (
        "import sys\n"
        "from ssd_probe.cli.app import main\n"
        f"sys.argv = ['ssd-probe', *{list(command)!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "ssd-probe" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command"),
        (["sample", "--prompts", "tiny:dev"], "Missing option '--out'"),
        (["sample", "--model", "no/where", "--prompts", "tiny:dev", "--out", "o"], "no/where"),
        (["sample", "--prompts", "broken.jsonl", "--out", "o"], "broken.jsonl:2: not valid JSON"),
        (["sample", "--prompts", "tiny:dev", "--temperature=-1", "--out", "o"], "temperature"),
        (["sample", "--prompts", "tiny:dev", "--top-p", "1.5", "--out", "o"], "top_p"),
        (["sample", "--prompts", "absent.jsonl", "--out", "o"], "absent.jsonl: no such file"),
        (["sample", "--prompts", "tiny:dev", "--config", "bad.yaml"], "unknown key 'temprature'"),
        (["sample", "--out", "o"], "Missing option '--prompts'"),
        (["sample", "--prompts", "tiny:dev", "--engine", "tgi", "--out", "o"], "must be one of hf"),
        (["sample", "--prompts", "tiny:dev", "--engine", "server", "--out", "o"], "--url"),
        (["sample", "--prompts", "tiny:dev", "--shard", "3/2", "--out", "o"], "shard '3/2'"),
        (["sample", "--prompts", "tiny:dev", "--load-in", "2bit", "--out", "o"], "4bit or 8bit"),
        (["sample", "--status", "--out", "o"], "no samples of `ssd-probe sample`"),
        (["doctor", "--engine", "hf", "--temperature", "0"], "greedy has no frequencies"),
        (
            ["run", "tiny", "--certificate", "absent.json", "--out", "o"],
            "absent.json: no such file",
        ),
        (["export", "absent.jsonl", "--out", "o"], "absent.jsonl: no such file"),
        (["demo", "--out", "occupied"], "not a run"),
        (["figures", "occupied"], "not a run"),
        (["probe", "--model", "cut", "--text", "code.py", "--out", "o"], "model.safetensors"),
        (
            ["probe", "--text", "code.py", "--top-k", "0", "--out", "o"],
            "top_k = 0: must be a whole number",
        ),
        (
            ["probe", "--text", "code.py", "--too-long", "drop", "--out", "o"],
            "'drop' is not one of",
        ),
        (["train", "--samples", "absent.jsonl", "--out", "o"], "absent.jsonl"),
        (["evaluate", "--problems", "x", "--samples", "absent.jsonl"], "absent.jsonl"),
        (["compare", "--base", "occupied", "--tuned", "occupied"], "occupied"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capfd):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (tmp_path / "bad.yaml").write_text("temprature: 1.0\n")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "mine.txt").write_text("")
    make_interrupted_download(tmp_path / "cut")
    (tmp_path / "code.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssd-probe", *arguments])
    with pytest.raises(SystemExit) as stopped:  # in this process: importing torch takes seconds
        main()
    said = capfd.readouterr()
    assert stopped.value.code == 2, said.err
    assert said.err.startswith("error: ") and message in said.err
    assert said.err.count("\n") == 1 and said.out == ""
    assert not (tmp_path / "o").exists()


def make_interrupted_download(folder):
    """A copy of the bundled checkpoint whose weights end early."""
    import shutil

    from ssd_probe.models.checkpoints import bundled_checkpoint

    shutil.copytree(bundled_checkpoint(), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def test_config_file_sets_flags_and_the_command_line_wins(here, tmp_path):
    (tmp_path / "run.yaml").write_text("prompts: tiny:dev\nlimit: 2\nmax-new-tokens: 3\nseed: 5\n")
    result = here("sample", "--config", "run.yaml", "--out", "s.jsonl", "--limit", "1")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 1 and len(rows[0]["completion_ids"]) == 3
    record = json.loads((tmp_path / "s.jsonl.run.json").read_text())
    assert record["settings"]["seed"] == 5


def test_other_settings_for_the_same_file_are_refused(here):
    fixed = ["sample", "--prompts", "tiny:dev", "--limit", 1, "--out", "s.jsonl"]
    assert here(*fixed, "--max-new-tokens", 2).returncode == 0
    result = here(*fixed, "--max-new-tokens", 3)
    assert result.returncode == 2 and "max_new_tokens: 2 -> 3" in result.stderr


def test_an_interrupted_command_is_resumable(here, tmp_path):
    options = ["sample", "--prompts", "tiny:ssd", "--limit", "64", "--batch-size", "4"]
    command = [sys.executable, "-m", "ssd_probe.cli", *options, "--out", "s.jsonl"]
    started = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "s.jsonl.part"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGTERM)  # SIGINT is ignored below background shells
    _, said = started.communicate(timeout=60)
    assert started.returncode == 75 and "run the same command again" in said
    assert not (tmp_path / "s.jsonl").exists()
    assert here(*options, "--out", "s.jsonl").returncode == 0
    assert here(*options, "--out", "whole.jsonl").returncode == 0
    assert (tmp_path / "s.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_two_ranks_train_one_model(here, tmp_path):
    """Two ranks see twice the samples a step, and keep one record."""
    sampled = here("sample", "--prompts", "tiny:ssd", "--limit", 40, "--out", "s.jsonl")
    assert sampled.returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--samples", "s.jsonl", "--max-steps", "5", "--batch-size", "4", "--out", "student"]
    launched = subprocess.run(
        [*command, "-m", "ssd_probe.cli", "train", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr
    lines = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1.0]
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_loop_by_hand(here):
    """The README's commands, one after another, on a few prompts."""

    def ok(*arguments):
        result = here(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    ok("sample", "--prompts", "tiny:ssd", "--limit", 12, "--out", "ssd.jsonl")
    ok("train", "--samples", "ssd.jsonl", "--max-steps", 3, "--out", "student")
    ok("sample", "--prompts", "tiny:dev", "--limit", 9, "--n", 2, "--out", "dev.jsonl")
    evaluate = ["evaluate", "--problems", "tiny:dev", "--samples", "dev.jsonl"]
    if obstacle():
        evaluate.append("--i-accept-unsandboxed-execution")
    told = ok(*evaluate, "--json")
    result = json.loads(told)
    assert len(result["results"]) == 18
    assert {row["k"] for row in result["pass_at_k"]} == {1}
    asked = here(*evaluate, "--k", 5)
    assert asked.returncode == 2 and "pass@5" in asked.stderr  # asked for, so not left out
    ok("probe", "--text", "dev.jsonl", "--out", "base")
    ok("probe", "--model", "student", "--text", "dev.jsonl", "--out", "tuned")
    compared = json.loads(ok("compare", "--base", "base", "--tuned", "tuned", "--json"))
    assert {"label", "base", "tuned"} <= compared["table"][0].keys() and compared["verdicts"]


def test_doctor_says_which_backend_and_why(here):
    result = run("doctor", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["position_stats_cpu"] == {"ok": True, "detail": "cpu (CPU tensors)"}
    assert all(set(line) == {"ok", "detail"} for line in found.values())
    text = here("doctor").stdout
    assert all(name in text for name in found)


def test_a_program_that_could_not_be_run_is_a_failure(monkeypatch, capsys):
    rows = [{"task_id": "a", "verdict": "infra_error", "detail": "no box"}]
    told = {"results": rows, "pass_at_k": [], "without_code": 0.5, "flips": 0, "isolation": "x"}
    found = Evaluated(told, [None])
    monkeypatch.setattr("ssd_probe.commands.evaluate.evaluate_stage", lambda *a, **k: found)
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "evaluate", "--problems", "p", "--samples", "s"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    out, error = capsys.readouterr()
    assert "50.0 % of the answers hold no code" in out and "infra_error" in error

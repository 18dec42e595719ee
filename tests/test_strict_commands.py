"""Every command writes and prints JSON that every parser takes, where numbers are none too.

One chain of commands, each on input so small that something has no value: one problem has no
interval, one line no fork. A command without a case here fails.
"""

import json
import math
import re
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import typer

from ssd_probe.cli.app import app, main
from ssd_probe.commands.loop import demo
from ssd_probe.files.digests import file_digest
from ssd_probe.models import gguf
from ssd_probe.problems.tasks import tiny_problems
from tests.test_evaluate import pytestmark  # noqa: F401 (skips where no box is)
from tests.test_gguf import make
from tests.test_strict import strictly

GRID = """\
checkpoints: {base: {model: tiny}, ssd: {model: student, T_train: 1.6, top_k: 20, top_p: 0.8}}
decoding: {temperature: [1], top_k: 20, top_p: 0.8}
problems: tiny:test
limit: 1
n: 1
k: [1]
"""
LOOP = """\
model: tiny
prompts: tiny:ssd
prompt_limit: 8
max_new_tokens: 64
arms: {ssd: {T_train: 1.6, top_k: 20, top_p: 0.8}}
training: {batch_size: 8}
T_eval: 1.0
test: {problems: tiny:test, limit: 1, n: 1}
texts: tiny:test
text_limit: 1
"""
PROBLEMS = ["--problems", "tiny:dev", "--samples", "answers.jsonl"]
COMPARED = ["--base", "probes/base", "--tuned", "probes/tuned"]
# By command, in order: what is typed, and which of its files (`""`: stdout) hold a null. Whatever
# else it leaves is parsed as well.
CASES: dict[str, list[tuple[list[str], list[str]]]] = {
    "doctor": [
        (["--json"], []),
        (["--engine", "hf", "--draws", "1000", "--json", "--out", "certificate.json"], []),
    ],
    "sample": [
        (["--prompts", "odd-prompts.jsonl", "--out", "odd.jsonl"], ["odd.jsonl"]),
        (["--prompts", "tiny:ssd", "--limit", "4", "--out", "ssd.jsonl"], []),
        (["--prompts", "tiny:test", "--limit", "4", "--out", "own.jsonl"], []),
        (["--prompts", "tiny:dev", "--limit", "2", "--shard", "1/2", "--out", "shared"], []),
        (["--status", "--out", "shared", "--json"], []),
    ],
    "export": [(["ssd.jsonl", "--as", "messages", "--out", "chats.jsonl"], [])],
    "train": [
        (
            ["--samples", "ssd.jsonl", "--max-steps", "1", "--watch", "own.jsonl"]
            + ["--out", "student"],
            [],
        ),
    ],
    "probe": [
        (["--text", "line.py", "--out", "probes/base", "--verify", "1"], []),
        (["--text", "line.py", "--model", "student", "--out", "probes/tuned"], []),
        (["--text", "line.py", "--pair", "student", "--out", "probes/pair"], []),
        (["--text", "lines.py", "--out", "probes/lines"], []),
    ],
    "compare": [
        ([*COMPARED, "--json", "--out", "comparison"], [""]),
        (["--pair", "probes/pair", "--json"], [""]),
    ],
    "evaluate": [([*PROBLEMS, "--json", "--out", "evaluation.json"], ["", "evaluation.json"])],
    "branch": [
        (
            ["--problems", "tiny:test", "--samples", "own.jsonl", "--positions", "3"]
            + ["--per-token", "1", "--json", "--out", "branch"],
            [],
        ),
    ],
    "diff": [(["ssd.jsonl", "paper", "--json"], []), (["student", "ml-ssd", "--json"], [])],
    "import": [(["server.json", "--out", "imported", "--json"], ["", "imported/probe.json"])],
    "power": [
        (["pilot.json", "--json"], [""]),
        (["pilot.json", "other-pilot.json", "--json"], [""]),
    ],
    "predict": [
        (["--probe", "probes/lines", "--json", "--out", "map"], []),
        (
            ["--probe", "probes/lines", "--student", "probes/lines", "--t-train", "1.6", "--json"],
            [],
        ),
    ],
    "sweep": [(["--grid", "grid.yaml", "--out", "sweep", "--json"], [""])],
    "run": [
        (
            ["loop.yaml", "--json", "--certificate", "certificate.json", "--out", "loop"],
            ["", "loop/summary.json"],
        ),
        (["loop.yaml", "--dry-run", "--json"], []),
    ],
    "report": [(["loop"], [])],
    "toy": [(["--json", "--out", "toy"], [])],
    "figures": [(["--sweep", "sweep/sweep.csv", "--published", "--out", "published"], [])],
    "view": [(["probes/pair", "--out", "view.html"], [])],
    "fetch": [(["smollm2"], [])],
}
ONCE = "every command once, drawing what it can"
together = pytest.mark.xdist_group("strict commands")  # one worker has what `made` makes


def commands(group, *before):
    """Names of the commands of a typer app, those of its groups too: `"group command"`."""
    for name, each in group.commands.items():
        yield from (
            commands(each, *before, name)
            if hasattr(each, "commands")
            else [" ".join([*before, name])]
        )


def test_every_command_has_a_case():
    assert {*commands(typer.main.get_command(app))} == {*CASES, "demo"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each command printed, by its name and number, and the folder that they left."""
    folder = tmp_path_factory.mktemp("strict")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        printed = {}
        for name, runs in CASES.items():
            for number, (arguments, _) in enumerate(runs):
                printed[name, number] = run(patch, [*name.split(), *arguments])
    return folder, printed


def prepare(folder, patch):
    small = make(folder / "small.gguf")
    carried = gguf.Carried("none==1", "small.gguf", file_digest(small), 1, 1)
    patch.setitem(gguf.CARRIED, "smollm2", carried)
    patch.setattr(gguf, "_download", lambda *_: small)
    patch.setenv("SSD_PROBE_HOME", str(folder / "home"))
    patch.chdir(folder)
    Path("line.py").write_text("x\n")
    Path("lines.py").write_text("def solve(xs):\n    return sum(xs)\n")
    Path("grid.yaml").write_text(GRID)
    Path("loop.yaml").write_text(LOOP)
    odd = {"prompt": [{"role": "user", "content": "x"}], "note": math.nan}
    Path("odd-prompts.jsonl").write_text(json.dumps(odd) + "\n")  # Python's own JSON, as pandas'
    (problem,) = tiny_problems("dev", 1)
    answer = {"problem_id": problem.problem_id, "completion": "def solve(xs):\n    return 1"}
    Path("answers.jsonl").write_text(json.dumps(answer) + "\n")
    top = [{"token": each, "logprob": -1.0} for each in "ab"]
    said = {"choices": [{"logprobs": {"content": [top[0] | {"top_logprobs": top}]}}]}
    Path("server.json").write_text(json.dumps(said))
    answered = [{"task_id": t, "verdict": v} for t in "ab" for v in ("pass", "error")]
    Path("pilot.json").write_text(json.dumps({"results": answered}))
    Path("other-pilot.json").write_text(json.dumps({"results": answered[::-1]}))


def run(patch, words):
    patch.setattr(sys, "argv", ["ssd-probe", *words])
    with redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code, words
    return out.getvalue()


@together
@pytest.mark.slow(reason=ONCE)
@pytest.mark.parametrize("name", CASES)
def test_what_is_printed_is_strict(name, made):
    folder, printed = made
    for number, (arguments, nulls) in enumerate(CASES[name]):
        told = printed[name, number]
        if "--json" in arguments:
            strictly(told)
        for place in nulls:
            text = (folder / place).read_text() if place else told
            assert re.search(r"\bnull\b", text), f"{place}: nothing here is none"


@together
@pytest.mark.slow(reason=ONCE)
def test_what_is_written_is_strict(made):
    check_files(made[0], 30, {made[0] / "odd-prompts.jsonl"})


@pytest.mark.slow(reason=ONCE)
def test_the_demo_is_strict(demo_run, monkeypatch, tmp_path):
    """It is there already, so that its command only prints; and its figures are drawn anew."""
    done, _, config, _ = demo_run
    folder = shutil.copytree(done, tmp_path / "run")  # its summary says how long it took
    monkeypatch.setattr(demo, "demo_config", lambda *_, **__: config)
    strictly(run(monkeypatch, ["demo", "--quick", "--json", "--out", str(folder)]))
    run(monkeypatch, ["figures", str(folder), "--out", str(tmp_path / "figures")])
    check_files(folder, 10)
    check_files(tmp_path / "figures", 0)


def check_files(folder, least, other=frozenset()):
    files = {file for file in folder.rglob("*") if file.suffix in (".json", ".jsonl", ".html")}
    assert len(files) >= least
    for file in files - other:
        text = file.read_text()
        if file.suffix == ".html":
            texts = re.findall(r'type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
            assert texts, file
        else:
            texts = text.splitlines() if file.suffix == ".jsonl" else [text]
        for each in texts:
            strictly(each)

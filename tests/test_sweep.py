"""The sweep: its grid as read, shared work done once, killed and resumed, refusals, the table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_probe.commands import sweep as sweeps
from ssd_probe.commands.grid import read_grid
from ssd_probe.decoding import Decoding
from ssd_probe.engines.hf import Hf
from ssd_probe.errors import Failed, UserError
from ssd_probe.execution import sandbox
from ssd_probe.files.reading import read_jsonl
from ssd_probe.models import identity
from ssd_probe.models.checkpoints import bundled_checkpoint
from ssd_probe.problems.tasks import load_tasks, program
from tests.models import save

UNBOXED = sandbox.obstacle() is not None  # bubblewrap is not everywhere
GRID = """
checkpoints:
  base: {model: tiny}
  ssd: {model: tiny, T_train: 1.6, top_k: 20, top_p: 0.8}
decoding: {temperature: [0.0, 1.3], top_k: 20, top_p: 0.8}
problems: tiny:dev
n: 2
k: [1, 2]
limit: 6
max_new_tokens: 96
"""


def sweep_stage(grid, out):
    return sweeps.sweep_stage(grid, out, unsandboxed=UNBOXED)


def grid_file(folder, text=GRID):
    (folder / "grid.yaml").write_text(text)
    return folder / "grid.yaml"


def test_a_grid_is_the_product_of_its_values(tmp_path):
    grid = read_grid(grid_file(tmp_path))
    assert grid.decodings == (Decoding(0.0, 20, 0.8), Decoding(1.3, 20, 0.8))
    assert [each.decoding for each in grid.checkpoints] == [None, Decoding(1.6, 20, 0.8)]
    assert (grid.problems, grid.n, grid.k, grid.limit, grid.seed) == ("tiny:dev", 2, (1, 2), 6, 0)
    several = "decoding: [{temperature: [1, 2], top_k: [0, 5]}, {top_p: 0.9}, {temperature: 2}]"
    grid = read_grid(
        grid_file(tmp_path, f"checkpoints: {{a: {{model: m}}}}\nproblems: x\n{several}")
    )
    assert [(d.temperature, d.top_k, d.top_p) for d in grid.decodings] == [
        *((1, 0, 1), (1, 5, 1), (2, 0, 1), (2, 5, 1)),
        (1, 0, 0.9),  # and no second (2, 0, 1)
    ]
    assert (grid.n, grid.k) == (10, (1, 5))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GRID, "- 1", "the file: must be a mapping"),
        (GRID, "a: [", "not valid YAML"),
        ("n: 2", "m: 2", "unknown key 'm'; known: batch_size, checkpoints, decoding"),
        ("problems: tiny:dev", "", "`problems` is missing"),
        ("n: 2", "n: two", "n: 'two' must be a whole number of at least 1"),
        ("n: 2", "n: true", "n: True must be a whole number"),
        ("n: 2", "timeout: 0", "timeout: 0 must be"),
        ("n: 2", "engine: llama", "engine 'llama': must be one of hf, vllm, server"),
        ("n: 2", "engine: server", "engine server: it serves one model"),
        ("n: 2", "engine_args: [a=1]", "--engine-arg: only with --engine vllm"),
        ("n: 2", "style: plain", "style: 'plain' must be one of auto, chat, raw"),
        ("k: [1, 2]", "k: [1, 3]", "pass@3 needs n of 3 or more, not 2"),
        ("k: [1, 2]", "k: 0", "k: 0 must be a whole number"),
        ("model: tiny}", "path: tiny}", "checkpoints.base: unknown key 'path'"),
        ("T_train: 1.6, ", "", "checkpoints.ssd: top_k and top_p need T_train"),
        ("T_train: 1.6", "T_train: -1", "checkpoints.ssd: temperature = -1"),
        ("  base:", "  ../base:", "checkpoints.../base: a name is letters"),
        ("[0.0, 1.3]", "[0.0, hot]", "decoding: temperature = 'hot'"),
        ("[0.0, 1.3]", "[]", "decoding: no settings"),
        ("decoding: {temperature: [0.0, 1.3], top_k: 20, top_p: 0.8}", "decoding: []", "decoding:"),
    ],
)
def test_a_wrong_grid_is_one_line(tmp_path, old, new, message):
    assert old in GRID
    path = grid_file(tmp_path, GRID.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_grid(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A whole sweep: its folder, its table, the models it loaded."""
    folder = tmp_path_factory.mktemp("sweep")
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        load = identity.load_model

        def load_model(name, *given, **options):
            loaded.append(name)
            return load(name, *given, **options)

        patch.setattr(identity, "load_model", load_model)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the processes that sample side by side
        table = sweep_stage(read_grid(grid_file(folder)), folder / "out")
        torch.set_num_threads(threads)
    return folder / "out", table, loaded


def test_the_table_has_a_row_for_every_cell_group_and_k(swept):
    out, table, _ = swept
    assert list(table.columns) == [
        *(
            "model",
            "policy",
            "T_train",
            "top_k_train",
            "top_p_train",
            "T_eval",
            "top_k_eval",
            "top_p_eval",
        ),
        *("group", "k", "estimate", "low", "high", "problems", "without_code"),
    ]
    assert len(table) == 2 * 2 * 4 * 2
    base, ssd = table[table["model"] == "base"], table[table["model"] == "ssd"]
    assert base[["T_train", "top_k_train", "top_p_train"]].isna().all(axis=None)
    assert (ssd["T_train"] == 1.6).all() and (ssd["top_k_train"] == 20).all()
    # The same weights, the same seed: the same numbers.
    columns = ["T_eval", "group", "k", "estimate", "low", "high", "problems"]
    assert base[columns].reset_index(drop=True).equals(ssd[columns].reset_index(drop=True))
    greedy = base[(base["T_eval"] == 0) & (base["group"] == "all")].set_index("k")["estimate"]
    assert greedy[1] == greedy[2]  # both samples of a problem are one program
    pd.testing.assert_frame_equal(pd.read_csv(out / "sweep.csv"), table, check_dtype=False)


def test_the_numbers_are_those_of_the_samples(swept):
    out, table, _ = swept
    rows = read_jsonl(out / "evaluations/base/T1.3-k20-p0.8.jsonl")
    samples = read_jsonl(out / "samples/base/T1.3-k20-p0.8.jsonl")
    assert [r["problem_id"] for r in rows] == [s["problem_id"] for s in samples]
    tasks = load_tasks("tiny:dev")
    for row, sample in zip(rows, samples, strict=True):
        namespace = {}
        try:
            exec(sample["completion"], namespace)
            right = all(
                namespace["solve"](*arguments) == expected
                for arguments, expected in tasks[row["problem_id"]].tests
            )
        except Exception:
            right = False
        assert right == (row["verdict"] == "pass")
    cell = table[(table["model"] == "base") & (table["T_eval"] == 1.3) & (table["group"] == "all")]
    assert cell.set_index("k")["estimate"][1] == np.mean([r["verdict"] == "pass" for r in rows])


def test_shared_work_is_done_once(swept):
    out, _, loaded = swept
    assert loaded == ["tiny"]  # both checkpoints are the same model
    tasks = load_tasks("tiny:dev")
    samples = [row for file in out.glob("samples/*/*.jsonl") for row in read_jsonl(file)]
    programs = {
        (row["problem_id"], program(tasks[row["problem_id"]], row["completion"])) for row in samples
    }
    run = [json.loads(line)[0] for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert len(run) == len(set(run)) == len(programs) < len(samples)


def test_a_finished_sweep_does_nothing_again_and_may_grow(swept, tmp_path, monkeypatch):
    out, table, _ = swept
    monkeypatch.setattr(sweeps, "sample_stage", None)
    again = sweep_stage(read_grid(grid_file(tmp_path)), out)
    pd.testing.assert_frame_equal(again, table)
    monkeypatch.undo()
    grown = GRID.replace("[0.0, 1.3]", "[0.0, 1.3, 1.0]").replace("  ssd", "  third")
    wider = sweep_stage(read_grid(grid_file(tmp_path, grown)), out)
    assert set(wider["model"]) == {"base", "third"} and set(wider["T_eval"]) == {0.0, 1.0, 1.3}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_new_tokens: 96", "max_new_tokens: 97", "max_new_tokens: 96 -> 97"),
        ("limit: 6", "limit: 7", "limit: 6 -> 7"),
        ("tiny:dev", "tiny:test", "problems: [0-9a-f]{64} -> "),
        ("T_train: 1.6", "T_train: 1.5", "trained_on.temperature: 1.6 -> 1.5"),
        ("n: 2", "n: 2\ntimeout: 9", "timeout: 3.0 -> 9"),
    ],
)
def test_other_settings_are_refused(swept, tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        sweep_stage(read_grid(grid_file(tmp_path, GRID.replace(old, new))), swept[0])


def test_changed_tests_are_refused_and_changed_models_too(swept, tmp_path, monkeypatch):
    grid = read_grid(grid_file(tmp_path))
    load_tasks = sweeps.load_tasks

    def other_tests(*arguments):
        return {name: replace(task, tests=()) for name, task in load_tasks(*arguments).items()}

    with monkeypatch.context() as patch, pytest.raises(UserError, match="problems: "):
        patch.setattr(sweeps, "load_tasks", other_tests)
        sweep_stage(grid, swept[0])
    other = shutil.copytree(bundled_checkpoint(), tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ messages }}")
    changed = GRID.replace("base: {model: tiny}", f"base: {{model: {other}}}")
    with pytest.raises(UserError, match=r"base/run\.json: model\.template: "):
        sweep_stage(read_grid(grid_file(tmp_path, changed)), swept[0])


def test_bad_input_writes_nothing(tmp_path):
    for old, new, message in (
        ("model: tiny", "model: no/where", "no/where"),
        ("tiny:dev", "absent.jsonl", "absent.jsonl: no such file"),
        ("tiny:dev", "mbpp", "mbpp"),
    ):
        with pytest.raises(UserError, match=message):
            sweep_stage(read_grid(grid_file(tmp_path, GRID.replace(old, new, 1))), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").write_text("")
    with pytest.raises(UserError, match="not empty and not a sweep"):
        sweep_stage(read_grid(grid_file(tmp_path)), tmp_path)


def test_programs_that_could_not_be_run_are_never_written_as_verdicts(tmp_path, monkeypatch):
    def broken(samples, tasks, **options):
        columns = {"problem_id": "p", "verdict": "infra_error", "detail": "no worker"}
        return pd.DataFrame(columns, index=range(len(samples)))

    one = GRID.replace("  ssd", "  # ").replace("[0.0, 1.3]", "0.0")
    grid = read_grid(grid_file(tmp_path, one))
    with monkeypatch.context() as patch, pytest.raises(Failed, match="no worker"):
        patch.setattr(sweeps, "evaluate", broken)
        sweep_stage(grid, tmp_path / "out")
    assert not list((tmp_path / "out" / "evaluations").rglob("*.jsonl"))
    assert len(sweep_stage(grid, tmp_path / "out")) == 4 * 2


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


@pytest.mark.slow(reason="two whole commands; the tests above stop and go on in this process")
def test_killed_in_the_middle_it_goes_on(swept, tmp_path):
    """SIGKILL once the first cell has its samples: nobody stays alive, and no cell is redone."""
    grid_file(tmp_path)
    options = ["--grid", "grid.yaml", "--out", "out", "--processes", "2", "--json"]
    command = [sys.executable, "-m", "ssd_probe.cli", "sweep", *options]
    command += ["--i-accept-unsandboxed-execution"] * UNBOXED
    null = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=tmp_path, stdout=null, stderr=null)
    deadline = time.monotonic() + 200
    while not (made := list(tmp_path.glob("out/samples/*/*.jsonl"))):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = children_of(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert len(children) >= 2
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (tmp_path / "out" / "sweep.csv").exists()
    first = {path: path.stat().st_mtime_ns for path in made}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == first
    _, table, _ = swept
    found = json.loads(done.stdout)
    assert found[0]["T_train"] is None
    pd.testing.assert_frame_equal(pd.DataFrame(found).astype(table.dtypes), table)


def test_an_engine_is_begun_once_a_checkpoint_and_ended(tmp_path, monkeypatch):
    begun, ended = [], []

    class Other(Hf):
        name = "vllm"

        def close(self):
            ended.append(self.checkpoint.name)

    def engine_of(choice, checkpoint, batch_size):
        begun.append((choice.engine, choice.arguments, checkpoint.name))
        return Other(checkpoint, batch_size)

    monkeypatch.setattr(sweeps, "engine_of", engine_of)
    copy = shutil.copytree(bundled_checkpoint(), tmp_path / "copy")
    text = GRID.replace("ssd: {model: tiny", f"ssd: {{model: {copy}")
    text += "engine: vllm\nengine_args: [enforce_eager=true]\n"
    sweep_stage(read_grid(grid_file(tmp_path, text)), tmp_path / "out")
    models = ["tiny", str(copy)]
    assert begun == [("vllm", ("enforce_eager=true",), model) for model in models]
    assert ended == models
    for file in (tmp_path / "out/samples").glob("*/*.jsonl"):
        assert {row["engine"] for row in read_jsonl(file)} == {"vllm"}
    plain = read_grid(grid_file(tmp_path, text.partition("engine:")[0]))
    with pytest.raises(UserError, match="engine: vllm -> "):
        sweep_stage(plain, tmp_path / "out")


def test_a_sweep_asks_in_its_style(tmp_path):
    model = save(tmp_path / "model", "llama")
    text = f"checkpoints: {{base: {{model: {model}}}}}\ndecoding: {{temperature: 1}}\n"
    text += "problems: basics:dev\nn: 1\nlimit: 2\nmax_new_tokens: 4\n"
    raw, chat, auto = (
        read_grid(grid_file(tmp_path, text + style)) for style in ("style: raw", "style: chat", "")
    )
    out = tmp_path / "raw"
    assert sweep_stage(raw, out)["problems"].max() == 2
    for folder in ("samples", "evaluations"):
        (file,) = (out / folder / "base").glob("*.jsonl")
        assert len(read_jsonl(file)) == 2
    (file,) = (out / "samples/base").glob("*.jsonl")
    assert all(row["style"] == "raw" and row["stop"] for row in read_jsonl(file))
    for other in (chat, auto):
        with pytest.raises(UserError, match=f"style: raw -> {other.style}"):
            sweep_stage(other, out)
    sweep_stage(auto, tmp_path / "auto")
    record = tmp_path / "auto/run.json"
    content = json.loads(record.read_text())
    assert content["settings"].pop("style") == "auto"  # as before there were styles
    record.write_text(json.dumps(content))
    sweep_stage(auto, tmp_path / "auto")
    refused = replace(raw, problems="tiny:dev")
    with pytest.raises(UserError, match="the bundled domain is asked in chat"):
        sweep_stage(refused, tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()

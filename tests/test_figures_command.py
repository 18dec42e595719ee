"""`ssd-probe figures` on a wrong kind of input: one line, exit 2, nothing drawn."""

import json
import sys

import pandas as pd
import pytest

from ssd_probe.cli.app import main
from ssd_probe.commands.loop.demo import demo_config

LOOP = {"loop": demo_config().loop.recorded()}


def run_of(folder, settings):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(settings))


@pytest.fixture()
def figures(tmp_path, monkeypatch, capfd):
    """Runs the command in a folder of its own: exit code and what it says on stderr."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ssd-probe", "figures", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("record", [
    {"settings": {"weights": "w", "n": 1}},
    {"settings": {"loop": {"seed": 0}}},
    {"settings": {"loop": None}},
    {"settings": {"loop": LOOP["loop"] | {"arms": "ssd"}}},
    {"settings": {"loop": LOOP["loop"] | {"T_eval": "hot"}}},
])  # fmt: skip
def test_a_run_of_another_kind(tmp_path, figures, record):
    run_of(tmp_path / "run", record)
    code, said = figures("run")
    assert code == 2 and said.startswith("error: run: not a run of `ssd-probe run` or `demo`")
    assert said.count("\n") == 1 and not (tmp_path / "run" / "figures").exists()


@pytest.mark.parametrize("record, why", [
    ({"settings": []}, "no record of settings"),
    ({}, "no record of settings"),
    ([], "damaged (no object)"),
])  # fmt: skip
def test_a_record_that_is_none(tmp_path, figures, record, why):
    run_of(tmp_path / "run", record)
    code, said = figures("run")
    assert code == 2 and said.startswith(f"error: run/run.json: {why}; ")
    assert said.count("\n") == 1 and not (tmp_path / "run" / "figures").exists()


def test_a_run_whose_models_were_not_probed(tmp_path, figures):
    run_of(tmp_path / "run", {"settings": LOOP})
    code, said = figures("run")
    assert code == 2 and said == (
        "error: run: stopped before its main arm was chosen; run it again\n"
    )
    (tmp_path / "run" / "choice.json").write_text('{"main": "ssd"}')
    code, said = figures("run")
    assert code == 2 and said == (
        "error: run/probes/base: no such probe folder; make it with `ssd-probe probe --out`\n"
    )


@pytest.mark.parametrize(("name", "said"), [
    ("absent.csv", "absent.csv: no such file"),
    ("folder", "folder: a folder; give the file of its table"),
    ("empty.csv", "empty.csv: the file is empty"),
    ("empty.parquet", "empty.parquet: the file is empty"),
    ("empty.jsonl", "empty.jsonl: the file is empty"),
    ("blank.jsonl", "blank.jsonl: the file is empty"),
    ("blank.csv", "blank.csv: not readable as csv"),
    ("header.csv", "header.csv holds no rows"),
    ("bytes.csv", "bytes.csv: not readable as csv"),
    ("bytes.parquet", "bytes.parquet: not readable as parquet"),
    ("table.txt", "table.txt: a sweep table is a .csv"),
    ("other.csv", "other.csv lacks the columns"),
])  # fmt: skip
def test_a_sweep_that_is_no_table(tmp_path, figures, name, said):
    (tmp_path / "folder").mkdir()
    for empty in ("empty.csv", "empty.parquet", "empty.jsonl"):
        (tmp_path / empty).write_text("")
    for blank in ("blank.csv", "blank.jsonl"):
        (tmp_path / blank).write_text("\n\n")
    columns = "model T_train top_k_train top_p_train T_eval top_k_eval top_p_eval group k estimate"
    (tmp_path / "header.csv").write_text(columns.replace(" ", ",") + "\n")
    for noise in ("bytes.csv", "bytes.parquet"):
        (tmp_path / noise).write_bytes(bytes(range(256)))
    (tmp_path / "table.txt").write_text("x")
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "other.csv")
    code, line = figures("--sweep", name, "--out", "out")
    assert code == 2 and line.startswith(f"error: {said}") and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file(tmp_path, figures):
    (tmp_path / "out").write_text("")
    code, said = figures("--published", "--out", "out")
    assert code == 2 and said.startswith("error: out: cannot be written (")

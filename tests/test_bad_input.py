"""Wrong kinds of input: one line that says what is wrong and where, and exit code 2."""

import errno
import json
import os
import sys

import pytest

from ssd_probe.cli import options
from ssd_probe.cli.app import main
from ssd_probe.errors import Failed

CONFIGS = {
    "list": ("- a\n", "c.yaml: expected `flag: value` lines, found a list"),
    "scalar": ("5", "c.yaml: expected `flag: value` lines, found a number"),
    "latin": (b"seed: \xe9", "c.yaml: not UTF-8 text"),
    "broken": ("a: [", "c.yaml: not valid YAML"),
    "date": ("seed: 2020-13-45", "--seed"),
    "words": ("top_k: many", "--top-k"),
    "a list for one": ("top_k: [1]", "c.yaml: top_k: [1] must be one number or text"),
    "a mapping": ("model: {a: 1}", "c.yaml: model: {'a': 1} must be one number or text"),
    "half": ("top_k: 1.5", "--top-k"),
    "true": ("top_k: true", "c.yaml: top_k: True must be one number or text"),
    "unknown": ("topk: 1", "c.yaml: unknown key 'topk'; known: "),
}
SAMPLES = {
    "no completion": ({"problem_id": "x"}, "no `completion` text"),
    "a number": ({"problem_id": "x", "completion": 5}, "no `completion` text"),
}
RECORDS = ("[]", "{}", '{"settings": 5}', "\xff")


def call(monkeypatch, capfd, *arguments):
    """Exit code, stdout and stderr of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["ssd-probe", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr()
    return stopped.value.code, said.out, said.err


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def check(message, *arguments):
        code, out, error = call(monkeypatch, capfd, *arguments)
        assert code == 2 and out == "", error
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error

    return check


@pytest.mark.parametrize(("content", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_of_the_wrong_kind(tmp_path, refused, content, message):
    (tmp_path / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(message, "sample", "--prompts", "x.jsonl", "--out", "o", "--config", "c.yaml")


def test_a_config_that_is_a_folder(tmp_path, refused):
    refused("cannot be read", "sample", "--prompts", "x", "--out", "o", "--config", ".")


def test_a_config_gives_a_repeatable_flag_one_value_or_several(tmp_path, refused):
    for value in ("absent.jsonl", "[absent.jsonl]"):
        (tmp_path / "c.yaml").write_text(f"text: {value}\n")
        refused("absent.jsonl: no such file", "probe", "--out", "o", "--config", "c.yaml")


@pytest.mark.parametrize(("row", "message"), SAMPLES.values(), ids=SAMPLES)
def test_samples_that_are_none(tmp_path, refused, row, message):
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    refused(message, "train", "--samples", "s.jsonl", "--out", "o")


def test_a_problem_name_that_is_a_list(tmp_path, refused):
    (tmp_path / "s.jsonl").write_text('{"problem_id": [1], "completion": "a"}\n')
    refused(
        "problem_id must be a string", "evaluate", "--problems", "tiny:dev", "--samples", "s.jsonl"
    )


@pytest.mark.parametrize("content", RECORDS)
def test_a_record_of_something_else(tmp_path, refused, content):
    for name in ("run.json", "probe.json"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content.encode("latin-1"))
    refused("out/run.json: ", "demo", "--quick", "--out", "out")
    refused("out/run.json: ", "figures", "out")
    refused("out/probe.json: ", "compare", "--pair", "out")


@pytest.mark.parametrize("value", ["nan", "-1"])
def test_a_learning_rate_out_of_range(refused, value):
    refused("learning_rate", "train", "--samples", "s", f"--learning-rate={value}", "--out", "o")


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_a_seed_out_of_range(refused, seed):
    refused("--seed", "demo", "--quick", f"--seed={seed}", "--out", "o")


def test_an_output_inside_a_file(tmp_path, refused):
    (tmp_path / "file").write_text("")
    refused("file", "toy", "--out", "file/figures")


def test_an_output_where_nothing_can_be_made(refused):
    refused("/proc/x", "toy", "--out", "/proc/x/figures")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "o.csv"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),  # of `write`
        (ValueError("serializing: I/O error: No space left on device (os error 28)"), 75),
        (Failed("no worker"), 1),
    ],
)
def test_what_is_no_fault_of_ours_has_no_hint_of_a_traceback(monkeypatch, capfd, raised, code):
    def fail(*arguments):
        raise raised

    monkeypatch.setattr("ssd_probe.commands.toy.toy_stage", fail)
    got, _, error = call(monkeypatch, capfd, "toy")
    assert got == code and len(error.splitlines()) == 1
    assert "traceback" not in error
    assert "the disk is full; free some space" in error if code == 75 else "no worker" in error
    assert ("o.csv" in error) == bool(getattr(raised, "filename", None))


@pytest.mark.parametrize("flag", [[], ["--debug"]])
def test_an_unexpected_error_says_how_to_see_the_traceback(monkeypatch, capfd, flag):
    monkeypatch.setenv("SSD_PROBE_DEBUG", "0")
    monkeypatch.setattr("ssd_probe.commands.toy.toy_stage", lambda *a: {}["gone"])
    code, _, error = call(monkeypatch, capfd, *flag, "toy")
    assert code == 1 and "error: KeyError: 'gone'" in error.splitlines()[-1]
    assert ("Traceback" in error) == bool(flag) == ("SSD_PROBE_DEBUG=1" not in error)
    assert (os.environ["SSD_PROBE_DEBUG"] == "1") == bool(flag)


def strictly(text):
    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_for_what_is_no_number(capsys):
    options.print_json({"a": [float("nan"), 1.5], "b": (float("-inf"), {"c": float("inf")})})
    assert strictly(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None, {"c": None}]}


def test_every_command_with_json_prints_by_the_one_helper():
    folder = os.path.dirname(options.__file__)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py") and name != "options.py":
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                source = file.read()
            assert "json.dumps" not in source
            assert source.count("as_json: AsJson") <= source.count("print_json("), name

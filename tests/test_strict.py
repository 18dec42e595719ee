"""What goes in and out between programs: JSON that every parser takes, YAML by today's rules, names
and ids as they were written."""

import json
import math

import pytest

from ssd_probe.analysis.sweeps.table import read_sweep
from ssd_probe.commands.grid import read_grid
from ssd_probe.decoding import Decoding
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.files.reading import read_jsonl, read_yaml
from ssd_probe.files.writing import strict_json, write_json, write_jsonl
from ssd_probe.problems.tasks import Task, lacks_code


def refuse(text):
    raise AssertionError(f"{text} is no JSON")


def strictly(text):
    return json.loads(text, parse_constant=refuse)


def test_json_has_null_where_a_number_is_none(tmp_path):
    content = {"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf}}
    want = {"a": [None, [None, 1.5]], "b": {"c": None}}
    write_json(tmp_path / "a.json", content)
    write_jsonl(tmp_path / "a.jsonl", [content, content])
    assert strictly(strict_json(content)) == strictly((tmp_path / "a.json").read_text()) == want
    assert [strictly(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        want,
        want,
    ]
    assert read_jsonl(tmp_path / "a.jsonl") == [want, want]


@pytest.mark.parametrize(("text", "want"), [
    ("7e-1", 0.7), ("1e-2", 0.01), ("1E3", 1000.0), ("-.5", -0.5), ("+1.", 1.0), ("010", 10),
    ("-3", -3), ("1:30", "1:30"), ("no", "no"), ("NA", "NA"), ("on", "on"), ("y", "y"),
    ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", math.inf),
    ("2001-12-14", "2001-12-14"), ("1_000", "1_000"), ("'7e-1'", "7e-1"), ("e3", "e3"), (".", "."),
    ("1.2.3", "1.2.3"),
])  # fmt: skip
def test_yaml_scalars(text, want, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"key: {text}\n")
    found = read_yaml(path)["key"]
    assert found == want and type(found) is type(want)


def test_a_checkpoint_may_have_any_name(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "checkpoints:\n  no: {model: tiny}\n  NA: {model: tiny, T_train: 1e0}\n"
        "decoding: {temperature: [7e-1, 1]}\nproblems: tiny:test\n"
    )
    grid = read_grid(path)
    assert [each.name for each in grid.checkpoints] == ["no", "NA"]
    assert grid.checkpoints[1].decoding == Decoding(1.0) and grid.decodings[0] == Decoding(0.7)
    table = tmp_path / "sweep.csv"
    head = "model,T_train,top_k_train,top_p_train,T_eval,top_k_eval,top_p_eval,group,k,estimate\n"
    rows = "no,,,,0.7,0,1,all,1,0.5\nNA,1.0,0,1,0.7,0,1,all,1,0.25\n1e3,1.1,0,1,0.7,0,1,all,1,0\n"
    table.write_text(head + rows)
    frame = read_sweep(table)
    assert frame["model"].tolist() == ["no", "NA", "1e3"]
    assert frame["T_train"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("key", ["problem_id", "task_id", "question_id"])
@pytest.mark.parametrize("value", [2857, "2857"])
def test_ids_may_be_numbers(key, value):
    task = Task("2857", kind="stdio", tests=(("", "hi\n"),))
    row = {key: value, "completion": "print('hi')"}
    frame = evaluate([row], {"2857": task}, workers=1, unsandboxed=True, progress=False)
    assert frame["verdict"].tolist() == ["pass"] and frame["problem_id"].tolist() == ["2857"]
    assert lacks_code([row], {"2857": task}) == [False]

"""Records refuse mixed settings; a folder has one writer."""

import subprocess
import sys

import pytest

from ssd_probe.errors import UserError
from ssd_probe.run import begin, claim, read_record

SETTINGS = {"seed": 1, "decoding": {"temperature": 1.6, "top_k": 20}, "temperatures": (1.0, 2.0)}


def test_the_same_settings_go_on_and_a_changed_one_is_named(tmp_path):
    record = tmp_path / "run.json"
    begin(record, SETTINGS)
    first = record.read_text()
    begin(record, SETTINGS)
    assert record.read_text() == first
    changed = SETTINGS | {"decoding": {"temperature": 1.2, "top_k": 20}}
    with pytest.raises(UserError, match=r"decoding\.temperature: 1\.6 -> 1\.2"):
        begin(record, changed)
    with pytest.raises(UserError, match="extra: None -> 3"):
        begin(record, SETTINGS | {"extra": 3})
    assert record.read_text() == first


def test_a_record_says_where_it_comes_from(tmp_path):
    begin(tmp_path / "run.json", SETTINGS)
    record = read_record(tmp_path / "run.json")
    assert record["versions"]["torch"] and record["created"] and "commit" in record


def test_a_damaged_record_is_one_line(tmp_path):
    (tmp_path / "run.json").write_text('{"settings": ')
    with pytest.raises(UserError, match="damaged"):
        begin(tmp_path / "run.json", SETTINGS)


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from ssd_probe.run import claim; from ssd_probe.errors import UserError\n"
        "try:\n"
        "    with claim(Path(sys.argv[1])): print('held')\n"
        "except UserError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with claim(tmp_path):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "in use by process" in said
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), claim(tmp_path / "file"):
        pass

"""Records refuse mixed settings; a folder has one writer."""

import json
import subprocess
import sys

import pytest
import torch

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files import record as record_module
from ssd_probe.files.claims import claim, ranks, record_lock
from ssd_probe.files.digests import digest
from ssd_probe.files.record import begin, read_record
from ssd_probe.models.checkpoints import device_name

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


def test_what_a_person_set_is_named_before_a_digest_that_follows_from_it(tmp_path):
    record, settings = tmp_path / "run.json", {"prompts": "a" * 64, "style": "raw"}
    begin(record, settings)
    with pytest.raises(UserError, match="style: raw -> chat"):
        begin(record, {"prompts": "b" * 64, "style": "chat"})
    with pytest.raises(UserError, match="prompts: a{64} -> b{64}"):
        begin(record, settings | {"prompts": "b" * 64})


def test_a_setting_that_older_records_lack_is_compared_where_it_stands(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    begin(old, {"seed": 1})
    begin(new, {"seed": 1, "style": "raw"})
    chat = {"seed": 1, "style": "chat"}
    begin(old, chat, newer={"style"})
    with pytest.raises(UserError, match="style: raw -> chat"):
        begin(new, chat, newer={"style"})
    with pytest.raises(UserError, match="style: None -> chat"):
        begin(old, chat)


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
        "from ssd_probe.files.claims import claim; from ssd_probe.errors import UserError\n"
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


def test_ranks_share_a_folder_with_each_other_only(tmp_path):
    with claim(tmp_path, rank=0), claim(tmp_path, rank=1):
        with pytest.raises(UserError, match=r"in use by process \d+ on \S+ \(rank-0\); wait"):
            claim(tmp_path).__enter__()
        with pytest.raises(UserError, match=r"in use by process \d+ on \S+ \(rank-"):
            claim(tmp_path, rank=1).__enter__()
    with claim(tmp_path), pytest.raises(UserError, match="in use by process"):
        claim(tmp_path, rank=0).__enter__()
    with claim(tmp_path, rank=0):
        pass


def test_the_record_is_written_by_one_rank_at_a_time(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ssd_probe.files.claims import record_lock\n"
        "print('waiting', flush=True)\n"
        "with record_lock(Path(sys.argv[1])): print(Path(sys.argv[1], 'x').read_text())\n"
    )
    with record_lock(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout and other.stdout.readline() == "waiting\n"
        (tmp_path / "x").write_text("written")
    assert other.communicate(timeout=30)[0] == "written\n"


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [
        ("", "", (0, 1)),
        ("1", "4", (1, 4)),
        ("4", "4", (0, 1)),
        ("x", "4", (0, 1)),
        ("0", "", (0, 1)),
    ],
)
def test_ranks_are_those_of_torchrun(monkeypatch, rank, world, expected):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert ranks() == expected


def test_a_record_of_an_older_format_is_read_and_not_gone_on_with(tmp_path):
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"settings": SETTINGS, "device": "cpu"}))
    assert read_record(record)["settings"]["seed"] == 1
    with pytest.raises(UserError, match=r"run\.json: format: None -> 2; it can be read") as refused:
        begin(record, SETTINGS)
    assert "\n" not in str(refused.value)


def test_a_digest_is_of_the_content():
    assert digest({"a": 1, "b": [(2, 3)]}) == digest({"b": [[2, 3]], "a": 1})
    different = [1, 1.0, True, "1", [1], {"1": 1}, None, Decoding(1.0), Decoding(1.5)]
    assert len({digest(each) for each in different}) == len(different)
    with pytest.raises(TypeError):
        digest({1, 2})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """This package as if installed in tmp_path/repository, a git repository with a commit."""
    inside = tmp_path / "repository" / "lib" / "record.py"
    inside.parent.mkdir(parents=True)
    inside.write_text("")
    (tmp_path / "repository" / "theirs.py").write_text("")
    monkeypatch.setattr(record_module, "__file__", str(inside))

    def git(*arguments):
        me = ("-c", "user.name=n", "-c", "user.email=e")
        command = ["git", "-C", str(tmp_path / "repository"), *me, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", "theirs.py")
    git("commit", "-qm", "theirs")
    return git


def test_the_commit_of_somebody_elses_repository_is_not_ours(package, tmp_path):
    begin(tmp_path / "run.json", SETTINGS)
    assert read_record(tmp_path / "run.json")["commit"] is None
    package("add", "lib/record.py")
    package("commit", "-qm", "ours")
    begin(tmp_path / "again.json", SETTINGS)
    assert read_record(tmp_path / "again.json")["commit"] == package("rev-parse", "HEAD")


def test_the_device_is_the_one_used(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {device}")
    assert device_name("cpu") == "cpu"
    assert device_name(None) == "GPU cuda:0" and device_name("cuda:1") == "GPU cuda:1"
    assert device_name("auto") == "GPU cuda"
    begin(tmp_path / "run.json", SETTINGS)  # of an evaluation, say
    assert read_record(tmp_path / "run.json")["device"] == "cpu"
    begin(tmp_path / "sampled.json", SETTINGS, {"device": device_name("cuda:1")})
    assert read_record(tmp_path / "sampled.json")["device"] == "GPU cuda:1"

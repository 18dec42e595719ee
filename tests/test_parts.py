"""Parts survive what happens to processes and disks: kills, stops, damage, full disks, two writers.

SSD_PROBE_KILLS sets how many random kills; the default keeps the tests short.
"""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_probe.errors import Resumable, UserError
from ssd_probe.files import parts
from ssd_probe.files.claims import claim
from ssd_probe.probing import writer
from ssd_probe.probing.forward import Scorer
from ssd_probe.probing.probe import Probe, probe
from ssd_probe.problems.texts import Text
from tests.models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("SSD_PROBE_KILLS", "30"))
SOURCE = Path(textwrap.__file__).read_text()
TEXTS = [
    Text(f"{i}.py", f"{i}.py", None, None, SOURCE[i * 500 : i * 500 + 90 + 20 * i], kind="source")
    for i in range(7)
]  # parts of 3, 3 and 1; batches of 2
OPTIONS = {"top_k": 8, "batch_size": 2, "progress": False, "backend": "torch"}


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "TEXTS_PER_PART", 3)


@pytest.fixture
def make(model):
    def run(out, texts=TEXTS, **options):
        return probe(model, texts, out, tokenizer=tiny_tokenizer(), **OPTIONS | options)

    return run


@pytest.fixture
def whole(make, tmp_path):
    make(tmp_path / "whole")
    return tmp_path / "whole"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but locks and the record, which holds the time."""
    names = (path for path in folder.iterdir() if "lock" not in path.name)
    return {path.name: path.read_bytes() for path in names if path.name != "probe.json"}


def after_batches(monkeypatch, count: int, action) -> list[int]:
    """Call `action` when so many batches are scored; the list grows by one a batch."""
    score, scored = Scorer.score_batch, []

    def counting(self, batch):
        stats = score(self, batch)
        scored.append(len(batch))
        if len(scored) == count:
            action()
        return stats

    monkeypatch.setattr(Scorer, "score_batch", counting)
    return scored


def interrupt() -> None:
    raise KeyboardInterrupt


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_parts_are_bounded_by_texts_and_positions(positions):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "TEXTS_PER_PART", 5)
        patch.setattr(parts, "POSITIONS_PER_PART", 60)
        plan = parts.plan(positions)
    assert [i for part in plan for i in part] == list(range(len(positions)))
    for part in plan:
        assert 1 <= len(part) <= 5
        assert len(part) == 1 or sum(positions[i] for i in part) <= 60


def test_a_stop_keeps_the_batches_that_are_done(make, whole, tmp_path, monkeypatch):
    """Parts 0 and 1 have batches of two texts and one; part 2 has one batch."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        after_batches(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Resumable, match=r"stopped by SIGTERM with 2 of 3 parts done and 0 bat"):
            make(tmp_path / "p")
    assert signal.getsignal(signal.SIGTERM) == before
    with monkeypatch.context() as patch:
        after_batches(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Resumable, match=r"by SIGINT with 0 of 3 parts done and 1 batches of"):
            make(tmp_path / "q")
    assert (tmp_path / "q" / "partial-00000.json").exists()
    scored = after_batches(monkeypatch, 0, interrupt)
    for name in "pq":
        make(tmp_path / name)
        assert contents(tmp_path / name) == contents(whole)
    assert len(scored) == 1 + 4  # nothing is scored twice


def test_a_part_is_continued_twice_and_with_another_batch_size(make, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TEXTS_PER_PART", 7)
    make(tmp_path / "seven")
    for _ in range(2):
        with monkeypatch.context() as patch:
            after_batches(patch, 2, interrupt)
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / "p")
    with monkeypatch.context() as patch:
        scored = after_batches(patch, 0, interrupt)
        other = make(tmp_path / "p", batch_size=3)
        assert sum(scored) == 7  # other batches are other numbers: all of them anew
    names = ["sample_id", "position", "token_id"]
    assert other.columns(names).equals(Probe.load(tmp_path / "seven").columns(names))


def test_a_batch_that_fails_loses_only_itself(make, whole, tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        after_batches(patch, 4, fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            make(tmp_path / "p")
    assert {"part-00000.json", "partial-00001.json"} <= contents(tmp_path / "p").keys()
    make(tmp_path / "p")
    assert contents(tmp_path / "p") == contents(whole)


def test_a_second_signal_acts_as_before():
    with pytest.raises(KeyboardInterrupt), parts.stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_signals_are_left_alone(make, tmp_path):
    thread = threading.Thread(target=make, args=(tmp_path / "p",))
    thread.start()
    thread.join()
    assert Probe.load(tmp_path / "p").finished


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def break_manifest(file: Path) -> None:
    file.with_suffix(".json").write_text("{")


DAMAGE = [flip, truncate, break_manifest, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_of_a_finished_folder_is_made_again(make, whole, capsys, damage):
    good, untouched = contents(whole), (whole / "part-00000.parquet").stat().st_mtime_ns
    damage(whole / "part-00001.parquet")
    with pytest.raises(UserError, match="part-00001.parquet: missing or damaged .* run the same"):
        _ = Probe.load(whole).frame
    capsys.readouterr()
    make(whole)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and re.search("part-00001.parquet: damaged .*it is made again", said[0])
    assert contents(whole) == good
    assert (whole / "part-00000.parquet").stat().st_mtime_ns == untouched
    assert len(Probe.load(whole).frame) == len(Probe.load(whole))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["part-00000.parquet", "partial-00001.parquet"])
def test_damage_in_an_unfinished_folder(make, whole, tmp_path, monkeypatch, capsys, damage, name):
    with monkeypatch.context() as patch:
        after_batches(patch, 4, interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "p")
    (tmp_path / "p" / ".part-00002.json.77.tmp").touch()  # as a killed run leaves them
    (tmp_path / "p" / "part-00002.parquet").touch()
    damage(tmp_path / "p" / name)
    make(tmp_path / "p")
    assert f"{name}: damaged" in capsys.readouterr().err
    assert contents(tmp_path / "p") == contents(whole)


def disk_full(error: OSError):
    """A writer that writes half a file, and then cannot."""
    write, calls = writer.write_table, []

    def failing(table, path):
        calls.append(path)
        if len(calls) != 2:
            return write(table, path)
        path.write_bytes(b"half")
        raise error

    return failing


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
])  # fmt: skip
def test_a_full_disk(make, whole, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_table", disk_full(error))
        with pytest.raises(Resumable, match="the disk is full; free some space") as caught:
            make(tmp_path / "p")
    assert "\n" not in str(caught.value)
    # The batches of part 1 are scored but not whole parts; nothing of them is half written.
    assert contents(tmp_path / "p").keys() == {"part-00000.json", "part-00000.parquet"}
    make(tmp_path / "p")
    assert contents(tmp_path / "p") == contents(whole)


def test_a_really_full_disk(make, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(map(len, contents(whole).values())) * 2 // 3
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        with pytest.raises(Resumable, match="the disk is full"):
            make(disk / "p")
        left = contents(disk / "p")
        assert "part-00000.json" in left and not any(name.endswith(".tmp") for name in left)
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        make(disk / "p")
        assert contents(disk / "p") == contents(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ranks_share_the_parts(make, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    first = make(tmp_path / "p")
    assert not first.finished and len(first) > 0
    assert "rank 1 of 2 is done; 2 parts of other ranks are not yet" in capsys.readouterr().err
    with pytest.raises(UserError, match="unfinished"):
        Probe.load(tmp_path / "p")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="top_k: 8 -> 9"):
        make(tmp_path / "p", top_k=9)
    assert make(tmp_path / "p").finished
    assert contents(tmp_path / "p") == contents(whole)
    record = (tmp_path / "p" / "probe.json").read_bytes()
    assert make(tmp_path / "p").finished  # either rank may come again
    assert (tmp_path / "p" / "probe.json").read_bytes() == record


def test_a_second_writer_is_refused(make, tmp_path, monkeypatch):
    with claim(tmp_path), pytest.raises(UserError, match=rf"in use by process {os.getpid()} on "):
        make(tmp_path)
    with claim(tmp_path, rank=3):
        with pytest.raises(UserError, match=r"in use by process \d+ on .* \(rank-3\)"):
            make(tmp_path)
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("RANK", "3")
        with pytest.raises(UserError, match="in use by process"):
            make(tmp_path)
        monkeypatch.setenv("RANK", "2")
        make(tmp_path)


many = pytest.mark.slow(reason="each kill is waited for, and its work begun again")


@pytest.mark.parametrize(
    ("world", "kills"),
    [(2, 2), pytest.param(1, KILLS, marks=many), pytest.param(2, KILLS, marks=many)],
)
def test_kills_at_random_times_change_no_bit(tmp_path, world, kills):
    command = [sys.executable, "-m", "tests.killing", str(tmp_path), str(kills), str(world)]
    patience = 100 + 4 * kills
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience)
    assert done.returncode == 0 and int(done.stdout) >= kills, done.stderr
    assert "damaged" not in done.stderr  # a kill leaves nothing that looks like damage
    expected = contents(tmp_path / "whole")
    frames = [pq.read_table(tmp_path / "whole" / name) for name in expected if "parquet" in name]
    assert len(frames) == 17
    for folder in tmp_path.iterdir():
        assert contents(folder) == expected


@pytest.mark.slow(reason="three commands of seconds; test_cli.py stops a short one")
def test_sigterm_to_the_command(tmp_path):
    for i in range(66):
        (tmp_path / f"{i:02}.py").write_text(SOURCE[i * 100 :][:400])
    command = [sys.executable, "-m", "ssd_probe.cli", "probe", "--batch-size", "1"]

    def start(out: str) -> subprocess.Popen:
        arguments = ["--text", str(tmp_path), "--out", str(tmp_path / out)]
        return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)

    running = start("p")
    while running.poll() is None and not (tmp_path / "p" / "probe.json").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=60)[1].splitlines()
    assert re.search(r"stopped by SIGTERM with \d of 2 parts done and \d+ batches", said[-1]), said
    assert list((tmp_path / "p").glob("partial-*.json"))
    for running in [start("p"), start("whole")]:
        assert running.communicate(timeout=120) and running.returncode == 0
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")


def test_reading_by_parts_and_columns(whole):
    loaded = Probe.load(whole)
    read = list(loaded.batches(["entropy", "token"]))
    assert len(read) == 3
    assert [row for frame in read for row in frame["token"]] == loaded.frame["token"].tolist()
    with pytest.raises(UserError, match="no column 'x'"):
        loaded.batches(["x"])


def test_what_is_recorded(make, tmp_path, capsys):
    done = make(tmp_path / "p")
    record = done.record
    assert (record["vocab_size"], record["head_rows"]) == (len(tiny_tokenizer()), 507)
    assert record["invalid"] == record["truncated"] == 0 and record["revision"] is None
    assert re.fullmatch("[0-9a-f]{64}", record["tokenizer"])
    broken = tiny_model("qwen3")
    with torch.no_grad():
        broken.get_input_embeddings().weight[done.frame["token_id"][40]] = torch.nan
    done = probe(broken, TEXTS, tmp_path / "q", tokenizer=tiny_tokenizer(), **OPTIONS)
    invalid = int((~done.frame["valid"]).sum())
    assert done.record["invalid"] == invalid and 0 < invalid < len(done)
    assert f"{invalid} positions have NaN" in capsys.readouterr().err


def test_progress_counts_positions_that_are_left(make, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        after_batches(patch, 4, interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "p")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = make(tmp_path / "p", progress=True)
    ended = pq.read_metadata(tmp_path / "p" / "part-00000.parquet").num_rows
    bar = capsys.readouterr().err
    total = int(re.findall(r"/(\d+) ", bar)[-1])
    assert "tok/s" in bar and 0 < total < len(done) - ended  # a batch of part 1 is done too

"""The box: what hostile programs try, and what programs may count on."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox, seccomp
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.problems.tasks import Task
from tests import corpus

ROOT = Path(__file__).parents[1]
needs_box = pytest.mark.skipif(
    sandbox.obstacle() is not None, reason=f"no isolation here: {sandbox.obstacle()}"
)
CASES = corpus.read_cases()
SUM = Task("p", entry="solve", tests=(([[1, 2]], 3), ([[]], 0)))
NOBODY = 65534


def descendants(pid: int) -> set[int]:
    """Every process below this one; those whose parents died too, where this is a subreaper."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    try:
        found = {int(child) for path in children for child in path.read_text().split()}
    except OSError:
        return set()
    return found.union(*map(descendants, found))


@pytest.fixture(scope="module")
def subreaper():
    """Orphans become children of this process, so that none can hide."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1)
    yield
    prctl(36, 0)


@pytest.fixture
def machine(tmp_path, monkeypatch, subreaper):
    """A home with a key, a canary, a secret variable, a bystander; unchanged afterwards."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("a key")
    canary = tmp_path / "canary"
    canary.write_text("as it was")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET_CANARY", "seen")
    before = descendants(os.getpid())
    bystander = subprocess.Popen(["sleep", "600"])
    device = os.stat("/dev/null")
    yield {"CANARY": str(canary), "HOME": str(home)}
    assert left_of(before | {bystander.pid}) == set()
    assert bystander.poll() is None
    assert Path(f"/proc/{bystander.pid}/stat").read_text().split()[2] == "S"
    bystander.kill()
    bystander.wait()
    assert sorted(os.listdir(tmp_path)) == ["canary", "home"]
    assert canary.read_text() == "as it was"
    assert (home / ".ssh" / "id_rsa").read_text() == "a key"
    assert os.stat("/dev/null").st_mode == device.st_mode
    assert os.stat("/dev/null").st_mtime_ns >= device.st_mtime_ns


def left_of(known: set[int]) -> set[int]:
    """Processes below this one that are still there after a second, but for the known ones."""
    end = time.monotonic() + 1
    while (left := descendants(os.getpid()) - known) and time.monotonic() < end:
        while True:  # reap what became ours
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.02)
    return left


@needs_box
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_program(case, machine):
    source = case.source.replace("CANARY", machine["CANARY"]).replace("HOME", machine["HOME"])
    sample = {"problem_id": case.kind, "completion": source}
    row = evaluate([sample], corpus.tasks(), seconds=1.0, progress=False).iloc[0]
    assert row["verdict"] in case.verdicts, row["detail"]


def test_the_corpus_is_large_enough_and_its_first_lines_are_read():
    hostile = [case for case in CASES if case.name.startswith("hostile/")]
    assert len(hostile) >= 50
    from ssd_probe.execution.evaluate import VERDICTS

    assert all(verdict in VERDICTS for case in CASES for verdict in case.verdicts)
    assert {case.kind for case in CASES} == {"", "stdio", "check"}


def run_corpus(*words: str, python: str = sys.executable, **options) -> dict:
    command = [python, "-m", "tests.corpus", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return json.loads(done.stdout)


def assert_right(result: dict) -> None:
    expected = {case.name: case.verdicts for case in CASES}
    got = result["verdicts"]
    assert {name: v for name, v in got.items() if v not in expected[name]} == {}
    assert result["megabytes"] < 150


@needs_box
def test_the_evaluator_needs_little_memory_whatever_programs_write():
    assert_right(run_corpus("_mb", "return_", "forged", "forever", "allocate", cwd=ROOT))


@needs_box
@pytest.mark.slow(reason="every hostile program again, most until their time is up")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_whole_corpus_as_an_ordinary_user(tmp_path):
    """With the system's own Python, since this one's may lie in root's home."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    site = sysconfig.get_path("purelib")
    if not os.access(python, os.X_OK):
        pytest.skip(f"no {python} that another user could run")
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": ROOT}
    environment = {"PYTHONPATH": f"{ROOT}:{site}", "PATH": os.environ["PATH"], "HOME": "/"}
    check = [python, "-c", "import pandas, ssd_probe.execution.sandbox as s; print(s.obstacle())"]
    told = subprocess.run(check, capture_output=True, text=True, env=environment, **as_nobody)
    if told.stdout.strip() != "None":
        pytest.skip(f"not for other users: {told.stdout.strip() or told.stderr[-200:]}")
    result = run_corpus(python=python, env=environment, **as_nobody)
    assert_right(result)
    assert len(result["verdicts"]) == len(CASES)


@needs_box
def test_nothing_lives_on_when_the_evaluator_is_killed(subreaper):
    code = (
        "from ssd_probe.execution.evaluate import evaluate\n"
        "from tests.test_sandbox import SUM\n"
        "loop = 'while True: pass'\n"
        "evaluate([{'problem_id': 'p', 'completion': loop + i * ' '} for i in range(8)],"
        " {'p': SUM}, workers=4, seconds=60)"
    )
    before = descendants(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    end = time.monotonic() + 60
    while len(descendants(process.pid)) < 12 and time.monotonic() < end:  # bwrap, first, program
        time.sleep(0.05)
    assert len(descendants(process.pid)) >= 12
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left_of(before) == set()


def test_a_missing_bubblewrap_is_named(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox._bubblewrap.cache_clear()
    sandbox.obstacle.cache_clear()
    try:
        with pytest.raises(UserError, match="bubblewrap is not installed .*apt-get") as refused:
            evaluate([{"problem_id": "p", "completion": ""}], {"p": SUM})
        assert "--i-accept-unsandboxed-execution" in str(refused.value)
        assert "\n" not in str(refused.value)
    finally:
        monkeypatch.undo()
        sandbox._bubblewrap.cache_clear()
        sandbox.obstacle.cache_clear()


@needs_box
def test_a_bubblewrap_that_does_not_work_is_named(monkeypatch):
    broken = (*sandbox._bubblewrap()[:-1], "--ro-bind", "/nowhere", "/x", "--")
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: broken)
    sandbox.obstacle.cache_clear()
    try:
        with pytest.raises(UserError, match="does not work here: bwrap: .*/nowhere"):
            evaluate([{"problem_id": "p", "completion": ""}], {"p": SUM})
    finally:
        sandbox.obstacle.cache_clear()


def test_a_missing_libseccomp_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    seccomp.program.cache_clear()
    try:
        with pytest.raises(UserError, match="pyseccomp is not installed"):
            seccomp.program()
    finally:
        seccomp.program.cache_clear()


@needs_box
def test_a_box_is_kept_for_the_next_program_and_not_after_files(monkeypatch):
    assert sandbox.obstacle() is None  # starts a box too, once
    started: list[int] = []
    start = sandbox.Box.__init__
    monkeypatch.setattr(
        sandbox.Box, "__init__", lambda self, *args: (started.append(1), start(self, *args))[1]
    )
    plain = "def solve(xs):\n    return sum(xs)"
    writing = "open('/tmp/x', 'w').close()\n" + plain
    for codes, boxes in (([plain, plain + " "], 1), ([writing, plain], 2)):
        started.clear()
        samples = [{"problem_id": "p", "completion": code} for code in codes]
        rows = evaluate(samples, {"p": SUM}, workers=1, progress=False)
        assert rows["verdict"].tolist() == ["pass", "pass"]
        assert len(started) == boxes


def test_a_box_without_isolation_ends_its_fork(monkeypatch):
    """It was waited for in vain, for five seconds, as it waited for a job."""
    box = sandbox.Box(isolated=False)
    box.ready()
    came, select = [], sandbox.select.select
    monkeypatch.setattr(
        sandbox.select, "select", lambda *given: came.append(select(*given)) or came[-1]
    )
    box.close()
    assert not came or came[-1][0]

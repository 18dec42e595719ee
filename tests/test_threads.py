"""Rows over threads: each row once, in whatever threads there are, and errors come out."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from ssd_probe.kernels.cpu import threads
from ssd_probe.kernels.cpu.threads import in_threads


@pytest.fixture(autouse=True)
def _two_threads():
    """The other tests have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["openmp", "pool"])
def _kind(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("torch has no OpenMP here")


def done_rows(rows: int) -> list[int]:
    done: list[int] = []
    in_threads(lambda begin, end: done.extend(range(begin, end)), rows)
    return sorted(done)


@pytest.mark.usefixtures("_kind")
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 1000])
def test_each_row_once(rows):
    assert done_rows(rows) == list(range(rows))


@pytest.mark.usefixtures("_kind")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_come_out(error):
    def fails(begin, end):
        if begin <= 70 < end:
            raise error("row 70")

    with pytest.raises(error, match="row 70"):
        in_threads(fails, 100)
    assert done_rows(100) == list(range(100))


@pytest.mark.usefixtures("_kind")
def test_two_callers_at_once_and_torch_within():
    found = {}

    def caller(name):
        sums = torch.zeros(400, dtype=torch.float64)

        def work(begin, end):
            sums[begin:end] = torch.ones(end - begin, 3000, dtype=torch.float64).sum(-1)

        for _ in range(20):
            in_threads(work, 400)
        found[name] = sums

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(2)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert all((found[i] == 3000).all() for i in range(2))


def test_a_forked_child_does_not_wait_for_threads_that_it_lacks():
    in_threads(lambda begin, end: None, 100)  # the parent's team exists
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if done_rows(100) == list(range(100)) else b"0")
        os._exit(0)
    os.close(writing)
    deadline = threading.Timer(60, os.kill, (child, 9))
    deadline.start()
    answer = os.read(reading, 1)
    deadline.cancel()
    os.waitpid(child, 0)
    assert answer == b"1"


LOST_THREADS = """
import multiprocessing, os
import torch

torch.set_num_threads(2)
x = torch.randn(4000, 1000)
x.sum(-1)  # torch's team exists from here on
if {early}:
    import ssd_probe.kernels.stats


def works(_=0):
    from ssd_probe.kernels.head import lm_head_stats
    from ssd_probe.kernels.pair import pair_stats
    from ssd_probe.kernels.stats import position_stats

    assert os.getpid() != PARENT
    targets = torch.arange(1000)
    for backend in ("cpu", "torch"):
        for dtype in (torch.float32, torch.float16):
            y = LOGITS[dtype]
            position_stats(y, targets=targets, backend=backend)
            pair_stats(y, y, backend=backend)
        lm_head_stats(x[:600, :64], x[:3000, :64], targets=targets[:600], backend=backend)
    return torch.get_num_threads()


PARENT = os.getpid()
LOGITS = {{dtype: x[:1000].to(dtype) for dtype in (torch.float32, torch.float16)}}
{run}
print("done")
"""
RUNS = {
    "os.fork": """
child = os.fork()
if child == 0:
    assert works() == 2  # and is left as it was
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0""",
    "multiprocessing": """
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(works, range(2)) == [2, 2]""",
    "DataLoader": """
class Data(torch.utils.data.Dataset):
    __len__ = lambda self: 2
    __getitem__ = lambda self, index: works()

loader = torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork")
assert [int(batch) for batch in loader] == [1, 1]  # its own setting""",
}


@pytest.mark.parametrize("early", [True, False], ids=["imported before", "imported after"])
@pytest.mark.parametrize("run", RUNS)
def test_statistics_in_a_forked_child(run, early):
    """Whose torch waits for ever for threads that only the parent has."""
    code = LOST_THREADS.format(run=RUNS[run], early=early)
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env
    )
    assert (found.stdout, found.returncode) == ("done\n", 0), found.stderr

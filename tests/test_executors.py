"""The same bits whatever computes: this process, processes, a Dask cluster."""

import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.digest import digest
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.commands.compare import compare_stage, part_readers
from ssd_probe.commands.evaluate import evaluate_stage
from ssd_probe.errors import Failed, Resumable, UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import TOGETHER, _Judging, _verdicts
from ssd_probe.executors import AHEAD, ALONE, Crew, Here, crew
from ssd_probe.probing.table import Probe
from ssd_probe.problems.tasks import load_tasks
from tests.probes import TRAIN
from tests.stored import store_probe

PARTS = 5


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    return [store_probe(folder / name, seed, PARTS) for seed, name in enumerate(("base", "tuned"))]


def threads() -> int:
    import torch

    return torch.get_num_threads()


def kill() -> None:
    os._exit(9)


def refuse(number: int) -> int:
    if number == 2:
        raise UserError("2: not this one")
    return number


def same(one, other) -> None:
    """Every frame and number of two digests, bit by bit."""
    for name, value in one._asdict().items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, getattr(other, name), check_exact=True)
        else:
            assert repr(value) == repr(getattr(other, name)), name


def digested(probes, workforce):
    base, tuned = map(Probe.load, probes)
    return digest(part_readers(base, tuned), SupportRule(), TRAIN, n_resamples=99, crew=workforce)


class TestCrew:
    def test_results_come_in_the_order_of_the_jobs_and_errors_where_they_were(self):
        got = []
        with pytest.raises(UserError, match="2: not this one"):
            got.extend(ALONE.map(refuse, [(n,) for n in range(9)]))
        assert list(ALONE.map(refuse, [(n,) for n in (0, 5, 3)])) == [0, 5, 3]

    def test_a_job_has_one_thread_and_the_threads_come_back(self):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert list(ALONE.map(threads, [()])) == [1] and torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)

    def test_no_more_jobs_are_taken_than_are_under_way(self):
        taken, got = [], 0

        def jobs():
            for n in range(50):
                taken.append(n)
                yield (n,)

        for _ in Crew(Here(), workers=3).map(abs, jobs()):
            got += 1
            assert len(taken) - got < AHEAD * 3
        assert got == 50

    def test_few_tasks_and_one_worker_are_this_process(self):
        with crew(1) as one, crew(9, workers=1) as other:
            assert one is ALONE and other is ALONE

    def test_a_cluster_that_is_not_there_is_one_line(self, monkeypatch):
        pytest.importorskip("distributed")
        monkeypatch.setattr("ssd_probe.executors.SECONDS", 0.2)
        with (
            pytest.raises(UserError, match="tcp://127.0.0.1:9: cannot be reached"),
            crew(2, "tcp://127.0.0.1:9"),
        ):
            pass


def test_a_killed_process_is_one_line():
    with (
        pytest.raises(Failed, match="was killed, perhaps for its memory"),
        crew(2, workers=2) as workforce,
    ):
        list(workforce.map(kill, [(), ()]))


@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("workers", [2, 4])
def test_processes_give_the_same_bits(probes, workers):
    with crew(PARTS, workers=workers) as workforce:
        assert workforce.workers == workers
        same(digested(probes, ALONE), digested(probes, workforce))


@pytest.mark.slow("starts processes")
def test_the_command_writes_the_same_bytes_with_two_workers(probes, tmp_path):
    for workers in (1, 2):
        compare_stage(*probes, None, TRAIN, out=tmp_path / str(workers), workers=workers)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / str(n)).iterdir()} for n in (1, 2)
    )
    assert one == two and len(one) > 20


@pytest.mark.slow("starts a cluster")
@pytest.mark.filterwarnings("default")  # of the cluster's own
def test_a_dask_cluster_gives_the_same_bits(probes):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        crew(PARTS, cluster.scheduler_address) as workforce,
    ):
        assert workforce.workers == 2 and not workforce.is_near
        same(digested(probes, ALONE), digested(probes, workforce))
        with pytest.raises(UserError, match="2: not this one"):
            list(workforce.map(refuse, [(n,) for n in range(4)]))


@pytest.mark.slow("starts a cluster")
@pytest.mark.filterwarnings("default")  # of the cluster's own
@pytest.mark.skipif(sandbox.obstacle() is not None, reason="no isolation here")
def test_programs_have_the_same_verdicts_on_a_dask_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    bodies = ["    return xs", "    return sorted(xs)", "    while True: pass", "    return 1 / 0"]
    samples = tmp_path / "s.jsonl"
    rows = [
        {"problem_id": name, "completion": f"def solve(xs):\n{body}\n"}
        for name in list(load_tasks("tiny:dev"))[:3]
        for body in bodies * 5  # 20 of each, alike ones run once
    ] + [{"problem_id": name, "completion": f"def solve(xs):\n    return xs[{i}:]\n"}
         for name in list(load_tasks("tiny:dev"))[:1] for i in range(2 * TOGETHER)]  # fmt: skip
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    here = evaluate_stage("tiny:dev", samples, None, seconds=0.5).result
    assert {row["verdict"] for row in here["results"]} >= {"wrong", "timeout", "error"}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        about = {"seconds": 0.5, "scheduler": cluster.scheduler_address}
        there = evaluate_stage("tiny:dev", samples, None, out=tmp_path / "v.json", **about)
    assert repr(there.result) == repr(here)  # NaN too


def test_a_worker_that_cannot_isolate_is_one_line(monkeypatch):
    monkeypatch.setattr(sandbox, "obstacle", lambda: "no bwrap")
    task = next(iter(load_tasks("tiny:dev").values()))
    asked = [(_Judging(1.0, 512, unsandboxed=False), task, ["x = 1"])]
    with pytest.raises(UserError, match=r"on .+: .*cannot be isolated: no bwrap"):
        list(ALONE.map(_verdicts, asked))


def test_a_cluster_that_is_lost_is_one_line():
    class Lost(Here):
        def submit(self, *_):
            found = Future()
            found.cancel()
            return found

    with pytest.raises(Resumable, match=r"the cluster is lost \(CancelledError\)"):
        list(Crew(Lost(), is_near=False).map(abs, [(1,)]))


def test_where_nothing_comes_the_reason_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr("ssd_probe.executors.SECONDS", 0.02)
    late = ThreadPoolExecutor(1)
    workforce = Crew(late, is_near=False, trouble=lambda: "has no workers now")
    assert list(workforce.map(time.sleep, [(0.2,), (0.0,)])) == [None, None]
    assert capsys.readouterr().err == "has no workers now; waiting\n"
    late.shutdown()


def test_stored_ranks_are_one_block_and_the_same_numbers(probes):
    probe = Probe.load(probes[0])
    whole = np.stack(probe.frame["top_logits"].tolist())
    from ssd_probe.analysis.frames import stacked, stats_of

    parts = list(probe.batches())
    assert len(parts) == PARTS
    assert np.array_equal(np.concatenate([stacked(p, "top_logits") for p in parts]), whole)
    some = parts[1].iloc[3:9]
    assert np.array_equal(stacked(some, "top_ids"), stats_of(parts[1]).top_ids.numpy()[3:9])
    read = partial(probe.part, 1, rows=[3, 5])
    assert np.array_equal(stacked(read(), "top_ids"), stats_of(parts[1]).top_ids.numpy()[[3, 5]])

"""Where the analysis computes: in this process, on the cores of this machine, on a Dask cluster.

One seam, `concurrent.futures`. A job is computed with one thread wherever that is, and results
come back in the order of the jobs: they are the same to the last bit whatever computes them, and
however many do.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from ssd_probe.errors import Failed, Resumable, UserError

T = TypeVar("T")
AHEAD = 2  # jobs of a worker that are under way or wait for it
SECONDS = 30  # to reach a scheduler


class Here(Executor):
    """Computes in this process, when asked."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Crew:
    """An executor and how many workers it has."""

    def __init__(
        self,
        executor: Executor,
        workers: int = 1,
        is_near: bool = True,
        trouble: Callable[[], str | None] | None = None,
    ) -> None:
        """trouble: why nothing comes, asked where nothing does."""
        self.executor, self.workers, self.trouble = executor, workers, trouble
        self.is_near = is_near  # on this machine: sees its files

    def map(self, function: Callable[..., T], jobs: Iterable[tuple]) -> Iterator[T]:
        """`function(*job)` of each job, in their order.

        At most `AHEAD` a worker are under way, so memory does not grow with the jobs. Raises what a
        job raised, `Failed` where a process was killed, `Resumable` where the cluster is gone.
        """
        pending: deque[Future[T]] = deque()
        most = AHEAD * self.workers if self.workers > 1 else 1
        try:
            for job in jobs:
                pending.append(self.executor.submit(_alone, function, *job))
                if len(pending) >= most:
                    yield self._result(pending.popleft())
            while pending:
                yield self._result(pending.popleft())
        except BrokenProcessPool:
            raise Failed(
                "a process that computed was killed, perhaps for its memory; fewer --workers "
                "need less"
            ) from None
        except Exception as error:
            if not _of_cluster(error):
                raise
            raise Resumable(
                f"the cluster is lost ({type(error).__name__}); start it again, and give the same "
                "command"
            ) from None
        finally:
            for future in pending:
                future.cancel()

    def _result(self, future: Future[T]) -> T:
        """Of a job; what keeps it from coming is said on stderr, once."""
        said = self.trouble is None
        while not said and not future.done():
            wait([future], SECONDS)
            if not future.done() and self.trouble and (reason := self.trouble()):
                print(f"{reason}; waiting", file=sys.stderr)
                said = True
        return future.result()


ALONE = Crew(Here())  # this process


@contextmanager
def crew(
    tasks: int,
    scheduler: str | None = None,
    workers: int | None = None,
    preload: Sequence[str] = (),
) -> Iterator[Crew]:
    """Who computes so many tasks: the cluster of a `scheduler`, else processes of this machine.

    workers: processes, by default one a core, and never more than there are tasks; one is this
    process itself. preload: modules that they need, imported once for all.
    Raises UserError where the cluster cannot be used.
    """
    if scheduler is not None:
        with _cluster(scheduler) as found:
            yield found
        return
    count = min(workers or len(os.sched_getaffinity(0)), tasks)
    if count <= 1 or multiprocessing.parent_process() is not None:  # the cores are shared out
        yield ALONE
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with processes(count, context, _enter) as pool:
        yield Crew(pool, count)


@contextmanager
def processes(
    count: int, context: Any, enter: Callable[..., None], arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool that `enter(*arguments)` prepares; whatever ends the block early ends them."""
    pool = ProcessPoolExecutor(count, context, initializer=enter, initargs=arguments)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def belong_to_parent() -> None:
    """In a process of a pool: Ctrl-C is left to the parent, and its end is this one's too.

    A killed parent can end nobody: without this its tasks would go on and hold their files.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _of_cluster(error: Exception) -> bool:
    """Whether no job but the cluster itself raised it."""
    return isinstance(error, CancelledError) or type(error).__module__.startswith("distributed.")


def _enter() -> None:
    belong_to_parent()
    os.environ["TQDM_DISABLE"] = "1"


def _alone(function: Callable[..., T], *arguments: Any) -> T:
    """With one thread of torch's: sums of several differ in the last bit."""
    torch = sys.modules.get("torch")
    if torch is None:
        return function(*arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _cluster(scheduler: str) -> Iterator[Crew]:
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "--scheduler needs dask.distributed: pip install 'ssd-probe[cluster]'"
        ) from None
    try:
        client = Client(scheduler, timeout=SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"--scheduler {scheduler}: cannot be reached ({reason})") from None
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it shows a traceback for what is said in one line here
    try:
        with client:
            workers = _fit_workers(client, scheduler)
            lost = partial(_without_workers, client, scheduler)
            yield Crew(client.get_executor(), workers, is_near=False, trouble=lost)
    finally:
        logger.setLevel(level)


def _fit_workers(client: Any, scheduler: str) -> int:
    """How many threads the cluster computes with; UserError unless each knows this ssd-probe."""
    try:
        theirs = client.run(_version)
    except Exception as error:  # whatever the import raised over there
        raise UserError(
            f"--scheduler {scheduler}: a worker cannot import ssd-probe: {error}"
        ) from None
    if not theirs:
        raise UserError(
            f"--scheduler {scheduler}: it has no workers; start some with `dask worker`"
        )
    for worker, version in theirs.items():
        if version != _version():
            raise UserError(
                f"--scheduler {scheduler}: {worker} has {version}, here is {_version()}"
            )
    return sum(client.nthreads().values())


def _without_workers(client: Any, scheduler: str) -> str | None:
    try:
        return None if client.nthreads() else f"--scheduler {scheduler}: has no workers now"
    except Exception:  # the cluster is lost, which the result says
        return None


def _version() -> str:
    """What decides the numbers."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("ssd-probe", "torch", "numpy", "numba"))

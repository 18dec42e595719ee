"""One program -> its verdict: a box runs it, and its results are compared out here.

Only plain trees of JSON come from a box; `==` on them runs no code of the program. What it says can
be forged, but only by values it made itself: it never sees an expected one.
"""

import json
import os
import select
import signal
import subprocess
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ssd_probe.execution.candidate import encode, frame
from ssd_probe.execution.deadline import Deadline
from ssd_probe.execution.sandbox import Box, BoxError, TooMuchError
from ssd_probe.problems.tasks import Task

VERDICTS = (
    *("pass", "wrong", "error", "timeout", "crash", "memory", "output_limit", "protocol"),
    "infra_error",
)
ANSWER_BYTES = 1 << 20  # of one result or of stdout, beyond twice what is expected
OUR_BYTES = 16 << 20  # of a message of the oracle; more is an infra_error

Verdict = tuple[str, str]


class _Ended(Exception):
    """The verdict of a program that gave no value."""

    def __init__(self, verdict: str, detail: str = ""):
        self.verdict: Verdict = (verdict, detail)


class Judge:
    """Runs one program at a time, in a box that lasts as long as programs leave it as it was."""

    def __init__(self, seconds: float, megabytes: int, isolated: bool = True):
        self.seconds, self.megabytes, self.isolated = seconds, megabytes, isolated
        self._box: Box | None = None
        self._oracle: Oracle | None = None

    def verdict(self, task: Task, code: str) -> Verdict:
        """`(verdict, detail)`. A box that fails is replaced once; then it is an `infra_error`."""
        for attempt in (1, 2):
            try:
                return self._run(task, code)
            except (BoxError, OSError) as error:
                self.close()
                if attempt == 2:
                    return "infra_error", f"{type(error).__name__}: {error}"[:200]
        raise AssertionError("unreachable")

    def close(self) -> None:
        for process in (self._box, self._oracle):
            if process is not None:
                process.close()
        self._box = self._oracle = None

    def _run(self, task: Task, code: str) -> Verdict:
        run = {"calls": self._calls, "stdio": self._stdio, "check": self._check}[task.kind]
        grace = 0.2
        try:
            return run(task, self._job(task, code))
        except _Ended as ended:
            return ended.verdict
        except TooMuchError as error:
            return "output_limit", str(error)
        except TimeoutError:
            grace = 0.0
            return "timeout", f"over {task.seconds or self.seconds:g} s"
        finally:
            self._settle(grace)

    def _ready_box(self) -> Box:
        if self._box is None:
            self._box = Box(self.isolated)
            self._box.ready()
        return self._box

    def _settle(self, grace: float) -> None:
        if self._box is not None and not self._box.settle(grace):
            self._box = None

    def _job(self, task: Task, code: str) -> dict:
        return {
            "code": code,
            "setup": task.setup,
            "entry": task.entry if task.kind != "stdio" else None,
            "method": task.kind == "calls",
            "calls": [],
            "more": False,
            "stdin": None,
            "seconds": task.seconds or self.seconds,
            "megabytes": self.megabytes,
            "bytes": ANSWER_BYTES,
        }

    def _check(self, task: Task, job: dict) -> Verdict:
        """The oracle runs the check; each call of its candidate is passed on to the box."""
        box, oracle = self._ready_box(), self._oracle or Oracle()
        self._oracle = oracle
        deadline = Deadline(job["seconds"], lambda: (*box.processes(), oracle.pid))
        box.start({**job, "more": True}, ANSWER_BYTES)
        try:
            said = oracle.ask(
                {"prompt": task.prefix, "check": task.check, "entry": task.entry}, deadline
            )
            while "call" in said:
                box.tell({"calls": [said["call"]], "more": True})
                said = oracle.ask({"value": _value(box, deadline, False)}, deadline)
        except BaseException:  # the check waits for a value that does not come
            oracle.close()
            self._oracle = None
            raise
        box.tell({"calls": [], "more": False})
        return said["verdict"], said["detail"]

    def _calls(self, task: Task, job: dict) -> Verdict:
        """Call the function on every test's arguments; `task.seconds` bounds one call, not all."""
        expected = [_plain(encode(value)) for _, value in task.tests]
        largest = max((len(json.dumps(tree)) for tree in expected), default=0)
        job["bytes"] = ANSWER_BYTES + 2 * largest
        job["calls"] = [[encode(tuple(arguments)), encode({})] for arguments, _ in task.tests]
        if task.seconds is not None:
            job["seconds"] = task.seconds * max(1, len(expected))  # of CPU
        box = self._ready_box()
        box.start(job, job["bytes"])
        deadline = box.deadline(task.seconds or job["seconds"])
        for (arguments, _), tree in zip(task.tests, expected, strict=True):
            got = _value(box, deadline)
            if not _equal(got, tree, task.exact):
                called = f"{task.entry}({', '.join(map(repr, arguments)):.80})"
                return "wrong", f"{called} gave {got!r:.80}, not {tree!r:.80}"
            if task.seconds is not None:
                deadline = box.deadline(task.seconds)
        return "pass", ""

    def _stdio(self, task: Task, job: dict) -> Verdict:
        """Run the whole program on every test's stdin, each in a process of its own."""
        for number, (given, expected) in enumerate(task.tests):
            self._settle(0.2) if number else None
            box = self._ready_box()
            limit = ANSWER_BYTES + 2 * len(expected)
            box.start({**job, "stdin": given}, limit)
            deadline = box.deadline(job["seconds"])
            if (data := box.reply(deadline)) is not None:
                _parse(data, False)  # an error; a program has no values to send
                raise _Ended("protocol", "a result where none was asked for")
            if box.wait(deadline) != 0:
                raise _died(box.wait(deadline))
            got = box.output.decode(errors="replace")
            if not same_output(got, expected):
                return "wrong", f"test {number + 1} gave {got!r:.80}, not {expected!r:.80}"
        return "pass", ""


def _value(box: Box, deadline: Deadline, tuples_as_lists: bool = True) -> Any:
    """The next value, as a tagged tree. Raises `_Ended` for a program that gives none."""
    data = box.reply(deadline)
    if data is None:
        assert box.status is not None
        raise _died(box.status)
    return _parse(data, tuples_as_lists)


def _parse(data: bytes, tuples_as_lists: bool) -> Any:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _Ended("protocol", f"a reply that is no JSON: {error}"[:200]) from None
    if isinstance(reply, dict) and len(reply) == 1:
        ((what, content),) = reply.items()
        if what == "value":
            try:
                return _plain(content) if tuples_as_lists else content
            except RecursionError:
                raise _Ended("protocol", "a reply nested too deep") from None
        if what in ("error", "memory", "output_limit"):
            raise _Ended(what, str(content)[:300])
    raise _Ended("protocol", "a reply of another form")


def _died(status: int) -> _Ended:
    if not os.WIFSIGNALED(status):
        return _Ended("crash", "ended by an early exit")
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return _Ended("timeout", "CPU time used up")
    return _Ended("crash", f"ended by signal {number}")


def _plain(tree: Any) -> Any:
    """A tagged tree as it is compared: tuples are lists, and the order of a dict is none."""
    if isinstance(tree, list):
        return [_plain(item) for item in tree]
    if isinstance(tree, dict):
        if len(tree) == 1 and "t" in tree:
            return _plain(tree["t"])
        if len(tree) == 1 and isinstance(tree.get("d"), list):
            return {"d": sorted(_plain(tree["d"]), key=json.dumps)}
        return {key: _plain(value) for key, value in tree.items()}
    return tree


def _equal(got: Any, expected: Any, exact: bool) -> bool:
    """In JSON text, where 1, 1.0 and true differ; or by ==. An opaque object equals nothing."""
    if exact:
        return json.dumps(got) == json.dumps(expected)
    return got == expected


def same_output(got: str, expected: str) -> bool:
    """LiveCodeBench's comparison: stripped lines, equal as text or as rows of decimal numbers."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (got, expected))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(got: str, expected: str) -> bool:
    if got == expected:
        return True
    try:
        ours, theirs = ([Decimal(word) for word in line.split()] for line in (got, expected))
        return ours == theirs
    except InvalidOperation:
        return False


class Oracle:
    """The process with the benchmark's check (`oracle.py`)."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        start = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from ssd_probe.execution.oracle import main; main()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict, deadline: Deadline) -> dict:
        """Tell it something it waits for, and wait for what it says next.

        Raises `TimeoutError`, and `BoxError` when it died or says more than `OUR_BYTES`: the fault
        of the benchmark's check, which makes the arguments of every call.
        """
        assert self._process.stdin and self._process.stdout
        try:
            os.set_blocking(self._process.stdin.fileno(), True)
            data = memoryview(frame(message))
            while data:
                data = data[os.write(self._process.stdin.fileno(), data) :]
        except BrokenPipeError:
            raise BoxError("the oracle's process died") from None
        length = int.from_bytes(self._read(4, deadline), "big")
        if length > OUR_BYTES:
            raise BoxError(f"the benchmark's check asks with {length} bytes, over {OUR_BYTES}")
        return json.loads(self._read(length, deadline))

    def _read(self, count: int, deadline: Deadline) -> bytes:
        assert self._process.stdout
        data, idle = b"", False
        while len(data) < count:
            left = deadline.left(idle)
            idle = not select.select([self._process.stdout], [], [], max(0.0, left))[0]
            if idle and left <= 0:
                raise TimeoutError
            if idle:
                continue
            chunk = os.read(self._process.stdout.fileno(), count - len(data))
            if not chunk:
                raise BoxError("the oracle's process died")
            data += chunk
        return data

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

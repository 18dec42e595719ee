"""The box that model-written programs run in: bubblewrap, limits and a seccomp filter.

A box holds the interpreter, its standard library, numpy, pandas and one script of ours, read-only;
`/tmp` and `/dev/shm` are its own. No network, no `/proc` but a link to stdin, an empty environment.
Its first process is our script (`candidate.py`), which the kernel protects: no signal from inside a
process namespace reaches its first process. It forks one process a program, which is handed pipes
of its own: what a program did not read, or did to its pipes, ends with it. A program cannot fork,
so nothing of it stays; a box in which a program wrote files, or that it left in any but the usual
way, is thrown away.
"""

import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.execution import seccomp
from ssd_probe.execution.candidate import frame
from ssd_probe.execution.deadline import Deadline, children

SCRIPT = str(Path(__file__).with_name("candidate.py"))
DISK_BYTES = 64 << 20  # of /tmp, and of /dev/shm
STDIN_BYTES = 256 << 20  # of a program's stdin, which is a file in the box
PACKAGES = ("numpy", "pandas", "dateutil", "six", "pytz", "tzdata")  # numpy, pandas, its needs
DEVICES = ("null", "zero", "full", "random", "urandom")
START_SECONDS = 20.0
CHUNK = 1 << 16


class TooMuchError(Exception):
    """A program wrote more than it may."""


class BoxError(Exception):
    """The box itself failed; nothing is known of the program."""


class Box:
    """A running box. `start` a job, take `reply` after reply, then `settle` or `close`."""

    def __init__(self, isolated: bool = True):
        self.isolated = isolated
        self.output = bytearray()  # of the program's stdout
        self.status: int | None = None  # of the program, as `os.waitpid` has it
        self._clean = True
        self._pid: int | None = None
        self._first: int | None = None
        self._unsent = memoryview(b"")
        self._answers, self._lines = bytearray(), bytearray()
        self._limit = 0
        self._jobs = self._replies = self._stdout = -1  # the program's own pipes, while open
        command = _command(isolated)
        self._hatch, theirs = socket.socketpair()  # through which each program gets them
        self._control, control_end = os.pipe()
        os.set_blocking(self._control, False)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=control_end,
                stderr=subprocess.PIPE,
                env={} if isolated else {"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(control_end)
        self._poll = select.poll()
        self._poll.register(self._control, select.POLLIN)

    def ready(self) -> None:
        """Wait until the box takes a job; `BoxError` if it does not come up."""
        try:
            self._pump(lambda: self._pid is not None, self.deadline(START_SECONDS))
        except TimeoutError:
            raise BoxError(f"not up after {START_SECONDS:.0f} s") from None

    def processes(self) -> list[int]:
        """The box's first process and the program's, as this machine counts."""
        if not self.isolated:
            return [self._process.pid] + ([self._pid] if self._pid else [])
        if self._first is None:  # one for the box's life, below bubblewrap's
            self._first = next(iter(children(self._process.pid)), None)
        first = [] if self._first is None else [self._first]
        return [self._process.pid, *first, *(pid for up in first for pid in children(up))]

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, self.processes)

    def start(self, job: dict, limit: int) -> None:
        """Hand over a job; from now on at most `limit` bytes may come of stdout, and a reply."""
        self._limit, self.status = limit, None
        self.output.clear()
        self._answers.clear()
        self._connect()
        self.tell(job)

    def _connect(self) -> None:
        """Pipes for the next program alone; it takes them, and no other can."""
        self._disconnect()
        (job_end, self._jobs), (self._replies, reply_end), (self._stdout, out_end) = (
            os.pipe() for _ in range(3)
        )
        try:
            socket.send_fds(self._hatch, [b"!"], [job_end, reply_end, out_end])
        finally:
            for descriptor in (job_end, reply_end, out_end):
                os.close(descriptor)
        for descriptor in (self._jobs, self._replies, self._stdout):
            os.set_blocking(descriptor, False)
        for descriptor in (self._replies, self._stdout):
            self._poll.register(descriptor, select.POLLIN)

    def _disconnect(self) -> None:
        for descriptor in (self._jobs, self._replies, self._stdout):
            if descriptor >= 0:
                self._unwatch(descriptor)
                os.close(descriptor)
        self._jobs = self._replies = self._stdout = -1
        self._unsent = memoryview(b"")

    def _unwatch(self, descriptor: int) -> None:
        with suppress(KeyError):
            self._poll.unregister(descriptor)

    def tell(self, message: dict) -> None:
        self._unsent = memoryview(bytes(self._unsent) + frame(message))

    def reply(self, deadline: Deadline) -> bytes | None:
        """The next reply's JSON; None if the program ended without one (`status`).

        Raises `TimeoutError` at the deadline, `TooMuchError` and `BoxError`.
        """
        self._pump(lambda: self._whole() or self.status is not None, deadline)
        if not self._whole():
            return None
        end = 4 + int.from_bytes(self._answers[:4], "big")
        data = bytes(self._answers[4:end])
        del self._answers[:end]
        return data

    def wait(self, deadline: Deadline) -> int:
        """The program's exit status, when it has ended. Raises as `reply`."""
        self._pump(lambda: self.status is not None, deadline)
        assert self.status is not None
        return self.status

    def settle(self, grace: float = 0.2) -> bool:
        """Whether the box can take another job, the program gone without a trace; else close it."""
        try:
            left = self.wait(self.deadline(grace)) != 0
        except (TimeoutError, TooMuchError, BoxError):
            left = True
        if left or not self._clean:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Kill everything in the box and wait until it is gone."""
        if not self.isolated and self._pid is not None:
            _kill(self._pid, group=True)
        self._process.kill()
        self._process.wait()
        self._hatch.close()  # on which a fork without a job waits; without a box none kills it
        deadline = time.monotonic() + 5  # the box's processes die with it, one after another
        while self._read(self._control) != b"" and time.monotonic() < deadline:
            select.select([self._control], [], [], 0.5)
        self._disconnect()
        os.close(self._control)
        assert self._process.stderr
        self._process.stderr.close()

    def _whole(self) -> bool:
        if len(self._answers) < 4:
            return False
        length = int.from_bytes(self._answers[:4], "big")
        if length > self._limit:
            raise TooMuchError(f"a result of over {self._limit} bytes")
        return len(self._answers) >= 4 + length

    def _pump(self, done: Callable[[], bool], deadline: Deadline) -> None:
        """Write what is unsent and read what comes, until `done()`; what came in time counts."""
        idle = False
        while not done():
            if self._unsent:
                self._poll.register(self._jobs, select.POLLOUT)
            left = deadline.left(idle)
            ready = self._poll.poll(max(0.0, 1000 * left))
            idle = not ready
            if idle and left <= 0:
                raise TimeoutError
            for descriptor, _ in ready:
                if descriptor == self._jobs:
                    self._write()
                elif descriptor == self._control:
                    self._listen()
                else:
                    self._take(descriptor)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._jobs, self._unsent[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._unwatch(self._jobs)

    def _listen(self) -> None:
        """Lines of the box's first process: `pid P`, `end STATUS CLEAN`."""
        data = self._read(self._control)
        if data == b"":
            raise BoxError(self._last_words())
        self._lines += data or b""
        while b"\n" in self._lines:
            line, _, rest = self._lines.partition(b"\n")
            self._lines = bytearray(rest)
            what, *values = line.split()
            if what == b"pid":
                self._pid = int(values[0])
            else:  # whatever the program wrote is in the pipes now
                self.status, self._clean = int(values[0]), values[1] == b"1"
                for descriptor in (self._replies, self._stdout):
                    while self._take(descriptor):
                        pass

    def _take(self, descriptor: int) -> bool:
        data = self._read(descriptor)
        if not data:
            if data == b"":  # every holder closed it
                self._unwatch(descriptor)
            return False
        kept = self.output if descriptor == self._stdout else self._answers
        kept += data
        if len(kept) > self._limit + 2 * CHUNK:  # a reply, and the beginning of the next
            raise TooMuchError(f"over {self._limit} bytes")
        return True

    def _read(self, descriptor: int) -> bytes | None:
        """What waits, b"" at the end; None where nothing waits."""
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            return None

    def _last_words(self) -> str:
        assert self._process.stderr
        self._process.kill()
        self._process.wait()
        os.set_blocking(self._process.stderr.fileno(), False)
        words = (self._process.stderr.read(2000) or b"").decode(errors="replace").strip()
        return " ".join(words.split()) or f"ended with status {self._process.returncode}"


def _kill(pid: int, group: bool = False) -> None:
    try:
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _command(isolated: bool) -> list[str]:
    python = [sys.executable, "-s", "-P", "-S", "-X", "utf8"]
    if not isolated:
        packages = str(Path(_package("numpy")[0]).parent) if _package("numpy") else "/nowhere"
        return [*python, SCRIPT, "", packages]
    python[0] = os.path.realpath(sys.executable)
    script = "/candidate.py", seccomp.program().hex(), "/packages"
    return [*_bubblewrap(), *python, *script]


@cache
def _bubblewrap() -> tuple[str, ...]:
    """bubblewrap's command line, up to the program."""
    found = shutil.which("bwrap")
    if found is None:
        raise UserError("bubblewrap is not installed (apt-get install bubblewrap; Linux only)")
    options = [
        *("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"),
        *("--uid", "65534", "--gid", "65534", "--hostname", "box"),
        *("--setenv", "PYTHONHASHSEED", "0"),  # the same order of sets in every box
    ]
    for path in _system_folders():
        options += ["--ro-bind", path, path]
    for masked in _masked():
        options += ["--tmpfs", masked, "--remount-ro", masked]
    for path in (path for name in PACKAGES for path in _package(name)):
        options += ["--ro-bind", path, f"/packages/{Path(path).name}"]
    for device in DEVICES:
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for folder, size in (("/tmp", DISK_BYTES), ("/dev/shm", DISK_BYTES), ("/dev/fd", STDIN_BYTES)):
        options += ["--perms", "0700", "--size", str(size), "--tmpfs", folder]
    options += ["--symlink", "fd/0", "/dev/stdin", "--symlink", "/dev/fd", "/proc/self/fd"]
    options += ["--ro-bind", SCRIPT, "/candidate.py", "--remount-ro", "/", "--chdir", "/tmp"]
    return found, *options, "--"


def _system_folders() -> list[str]:
    """The interpreter, its library, and the C libraries: what exists, at its own place."""
    paths = [os.path.realpath(sys.executable), sysconfig.get_path("stdlib")]
    paths += [sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix})]
    if library := sysconfig.get_config_var("LDLIBRARY"):
        paths.append(os.path.join(sysconfig.get_config_var("LIBDIR") or "/", library))
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def _masked() -> list[str]:
    """Installed packages inside the standard library: a benchmark's tests may be among them."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    folders = (
        stdlib / name for name in ("site-packages", "dist-packages", "../python3/dist-packages")
    )
    return [os.path.realpath(folder) for folder in folders if folder.is_dir()]


def _package(name: str) -> list[str]:
    """Where a package and its bundled libraries are; not imported. Empty if it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return [spec.origin] if spec and spec.origin else []
    folder = Path(spec.submodule_search_locations[0])
    libraries = folder.with_name(f"{name}.libs")
    return [str(path) for path in (folder, libraries) if path.is_dir()]


@cache
def obstacle() -> str | None:
    """Why model-written programs cannot be isolated here, in words; None if they can."""
    try:
        box = Box()
    except UserError as error:
        return str(error)
    try:
        box.ready()
    except BoxError as error:
        hint = ""
        if "namespace" in str(error) or "uid map" in str(error):
            hint = (
                " (user namespaces are off: set kernel.unprivileged_userns_clone=1, "
                "user.max_user_namespaces>0, or kernel.apparmor_restrict_unprivileged_userns=0)"
            )
        return f"bubblewrap does not work here: {error}{hint}"
    finally:
        box.close()
    return None

"""The script inside the box: it runs one model-written program after another, each in a fork.

Standard library only. Started as `candidate.py FILTER PACKAGES` (a seccomp program in hex, empty
for none, and where numpy is), it imports what programs often import, forks, and reports on stdout.
The fork takes three pipes of its own from the socket on stdin: jobs, replies, and the program's
stdout. The first two speak frames: four bytes of length, then JSON. A job is `{"code", "setup",
"entry", "method", "calls", "more", "stdin", "seconds", "megabytes", "bytes"}`. With `entry` each
call has an answer, `{"value"}`, or `{"error"}`, `{"memory"}`, `{"output_limit"}`, and while `more`
further `{"calls", "more"}` are awaited. Expected values are never here. The first process reads no
job itself, so that a fork finds nothing of earlier ones, and the pipes end with their program: no
other can read what it left there, nor find them changed (their flags, their size).

Values travel as JSON with tags for what JSON lacks (`encode`), never as pickles.
"""

import atexit
import builtins
import ctypes
import io
import json
import math
import os
import random
import resource
import signal
import socket
import sys
import types
from typing import Any, NoReturn

_open = open
DEPTH = 100  # nesting of a value
FILE_BYTES = 32 << 20  # of one file, in a box
RESERVE_BYTES = 32 << 20
INPUT = (
    "/dev/fd/0"  # a file of the box, which has no /proc; /dev/stdin and /proc/self/fd lead to it
)
OUTPUTS = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
PRELOADED = (
    *("array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal"),
    *("enum", "fractions", "functools", "heapq", "io", "itertools", "json", "math", "operator"),
    *("queue", "random", "re", "statistics", "string", "threading", "time", "typing"),
)


class TooLargeError(Exception):
    """A value beyond the limits on size or depth."""


def encode(value: Any, size: int = 1 << 62) -> Any:
    """A value as JSON with tags; `TooLargeError` beyond `size` characters or `DEPTH` levels.

    None, bool, int below 2^63, float, str and list are themselves; else one-key objects: `t` tuple,
    `s` set, `d` dict (pairs), `b` bytes (hex), `c` complex, `i` large int (hex), `o` the type name
    of anything else, which equals nothing. Sets are sorted by their members' JSON, dicts keep their
    order. Subclasses are encoded as their base.
    """
    left = [size]
    return _encode(value, 0, left)


_WIDTH: dict[type, int] = {str: 1, bytes: 2, bytearray: 2}  # characters an item


def _encode(value: Any, depth: int, left: list[int]) -> Any:
    kind = type(value)
    left[0] -= 2 + (len(value) * _WIDTH[kind] if kind in _WIDTH else 0)
    if left[0] < 0 or depth > DEPTH:
        raise TooLargeError("too large" if left[0] < 0 else f"nested over {DEPTH} deep")
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        if value.bit_length() < 64:
            return value
        left[0] -= value.bit_length() // 4
        return {"i": hex(value)} if left[0] >= 0 else _encode(None, depth, left)
    if kind is list:
        return [_encode(item, depth + 1, left) for item in value]
    if kind is tuple:
        return {"t": [_encode(item, depth + 1, left) for item in value]}
    if kind in (set, frozenset):
        return {"s": sorted((_encode(i, depth + 1, left) for i in value), key=json.dumps)}
    if kind is dict:
        return {"d": [[_encode(x, depth + 1, left) for x in pair] for pair in value.items()]}
    if kind in (bytes, bytearray):
        return {"b": bytes(value).hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    return _encode(_as_builtin(value), depth, left) if _has_base(value) else {"o": kind.__name__}


_BASES = (int, float, str, tuple, list, set, frozenset, dict, bytes, bytearray, complex)


def _has_base(value: Any) -> bool:
    return isinstance(value, _BASES) or type(value).__module__ == "numpy"


def _as_builtin(value: Any) -> Any:
    """A numpy scalar or array, or an object of a subclass, as the builtin it stands for."""
    if type(value).__module__ == "numpy":
        return value.tolist() if hasattr(value, "tolist") else repr(value)
    base = next(base for base in _BASES if isinstance(value, base))
    if base is int:
        return int.__add__(value, 0)
    return "".join(str.__iter__(value)) if base is str else base(value)


def decode(tree: Any) -> Any:
    """The value of an `encode`d tree; `ValueError` where it is none."""
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        raise ValueError("not a value")
    ((tag, content),) = tree.items()
    try:
        if tag == "t":
            return tuple(decode(content))
        if tag == "s":
            return set(decode(content))
        if tag == "d":
            return {decode(key): decode(value) for key, value in content}
        if tag == "b":
            return bytes.fromhex(content)
        if tag == "c":
            return complex(*content)
        if tag == "i":
            return int(content, 16)
        if tag == "o":
            return type(str(content), (), {})()
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a value: {error}") from None
    raise ValueError(f"not a value: tag {tag!r}")


def frame(message: Any) -> bytes:
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "big") + data


def read_frame(descriptor: int) -> Any:
    """The next message of a blocking descriptor; None at its end."""
    length = _read_exactly(descriptor, 4)
    data = length and _read_exactly(descriptor, int.from_bytes(length, "big"))
    return json.loads(data) if data else None


def _read_exactly(descriptor: int, count: int) -> bytes | None:
    chunks = []
    while count:
        chunk = os.read(descriptor, min(count, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def write_frame(descriptor: int, message: Any) -> None:
    data = memoryview(frame(message))
    while data:
        data = data[os.write(descriptor, data) :]


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_filter(program: bytes) -> None:
    """Put this process under a seccomp program, for good (`prctl(PR_SET_SECCOMP)`)."""
    if program:
        fprog = _SockFprog(len(program) // 8, program)
        if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(fprog), 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp filter refused")


def limit(job: dict, boxed: bool) -> None:
    """Bound what this process may use. Outside a box it may write no file at all."""
    seconds = math.ceil(job["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    written = FILE_BYTES if boxed else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    if boxed:  # counted in the box's own namespace, threads too; root needs the filter
        resource.setrlimit(resource.RLIMIT_NPROC, (256, 256))
    memory = job["megabytes"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + RESERVE_BYTES))


def _release_reserve() -> None:
    """Room to say that memory is used up."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _open_input(text: str, boxed: bool) -> int:
    """A descriptor from which a program reads its stdin: at the start, and it can seek.

    In a box it is the file that `/dev/stdin` is; outside, `/dev/stdin` is what the descriptor is.
    """
    if boxed:
        descriptor = os.open(INPUT, os.O_RDWR | os.O_TRUNC)
    elif hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stdin")
    else:
        path = f"/tmp/ssd-probe-stdin-{os.getpid()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
    data = memoryview(text.encode("utf-8", "surrogatepass"))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _connect(job: dict, output: int, boxed: bool) -> None:
    """Give the program its own standard streams, in the place of the socket and the reports."""
    null = os.open(os.devnull, os.O_RDWR)
    given = _open_input(job["stdin"] or "", boxed)  # nothing stays there of an earlier program
    if job["stdin"] is None:
        os.dup2(null, 0)
        os.dup2(null, 1)
    else:
        os.dup2(given, 0)
        os.dup2(output, 1)
    os.dup2(null, 2)
    for descriptor in (null, given, output):
        os.close(descriptor)
    sys.stdin = _open(0, errors="surrogateescape", closefd=False)  # the first was of a socket


def _child(program: bytes) -> NoReturn:
    """Take the pipes of one program, run it, answer. Never returns."""
    try:
        hatch = socket.socket(fileno=0)
        pipes = socket.recv_fds(hatch, 1, 3)[1]
        hatch.detach()
        if not pipes:
            os._exit(0)
        jobs, replies, output = pipes
        job = read_frame(jobs)
        if not program:
            os.setsid()  # without a box: so that what it starts can be killed with it
        _connect(job, output, bool(program))
        random.seed(0)  # the same draws in every box and order
        limit(job, bool(program))
        install_filter(program)
        _answer(job, jobs, replies)
        if job["stdin"] is not None:
            _leave()
        os._exit(0)
    finally:
        os._exit(1)


def _answer(job: dict, jobs: int, replies: int) -> None:
    try:
        namespace = _execute(job)
        function = job["entry"] and _entry(namespace, job["entry"], job["method"])
        while function:
            for arguments, keywords in job["calls"]:
                value = function(*decode(arguments), **decode(keywords))
                write_frame(replies, {"value": encode(value, job["bytes"])})
            if not job["more"]:
                break
            job |= read_frame(jobs)
    except TooLargeError as error:
        write_frame(replies, {"output_limit": str(error)})
    except MemoryError:
        _release_reserve()
        write_frame(replies, {"memory": "out of memory"})
    except BaseException as error:
        if not (isinstance(error, SystemExit) and job["stdin"] is not None):
            write_frame(replies, {"error": f"{type(error).__name__}: {str(error)[:200]}"})


def _execute(job: dict) -> dict:
    """Run the program: as `__main__` where it reads stdin; else imported, as the benchmarks do."""
    module = types.ModuleType("program" if job["stdin"] is None else "__main__")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    module.__dict__["__builtins__"] = builtins
    if job["stdin"] is not None:
        builtins.open = io.open = _open_or_stdin
    if job["setup"]:
        exec(compile(job["setup"], "<setup>", "exec"), module.__dict__)
    exec(compile(job["code"], "<program>", "exec"), module.__dict__)
    return module.__dict__


def _open_or_stdin(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
    """`open`; to read what does not exist is to read all of stdin, such as `input.txt`.

    LiveCodeBench's `open` gives the input whatever the file (call_method of testing_util.py).
    `/dev/stdout` is the output, which in a box has no place among the files.
    """
    if (
        isinstance(file, (str, os.PathLike))
        and os.fspath(file) in OUTPUTS
        and not set(mode) & set("r+")
    ):
        return _open(os.dup(1), mode, *rest, **options)
    try:
        return _open(file, mode, *rest, **options)
    except FileNotFoundError:
        if set(mode) & set("wax+"):
            raise
    return _open("/dev/stdin", mode, *rest, **options)


def _entry(namespace: dict, name: str, method: bool) -> Any:
    """The function called `name`, or the method of `class Solution`, as LiveCodeBench has it.

    With `method` the class comes first: a helper or a star import may have the method's name.
    """
    if "Solution" in namespace and (method or name not in namespace):
        return getattr(namespace["Solution"](), name)
    return namespace[name]


def _leave() -> None:
    """What the interpreter does at its end and a program may count on: threads, atexit, flush."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None and not stream.closed:
            stream.flush()


def _kill_group(pid: int) -> None:
    """Without a box: kill what a program left behind in its session's group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        return


def _traces() -> list[int]:
    """Other than before if anything was made, removed or renamed where a program can write."""
    return [os.stat(folder).st_ctime_ns for folder in ("/tmp", "/dev/shm", "/dev/fd")]


def main() -> None:
    """Fork a program's process, report its end, and so on. `pid P`, then `end STATUS CLEAN`."""
    program = bytes.fromhex(sys.argv[1])
    sys.path.append(sys.argv[2])
    del sys.argv[1:]  # a program has no arguments
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process of a box gets no other signal
    os.environ.clear()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # many cores, little memory
    for name in PRELOADED:
        __import__(name)
    if program:
        os.close(os.open(INPUT, os.O_CREAT | os.O_EXCL, 0o600))
    before = _traces() if program else []
    while True:
        pid = os.fork()
        if pid == 0:
            _child(program)
        os.write(1, f"pid {pid}\n".encode())
        status = os.waitpid(pid, 0)[1]
        if not program:
            _kill_group(pid)
        clean = not program or _traces() == before
        os.write(1, f"end {status} {int(clean)}\n".encode())


if __name__ == "__main__":
    main()

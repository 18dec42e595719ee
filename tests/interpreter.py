"""Triton's interpreter, which must be chosen before the kernels are imported.

So the tests that interpret run in a child process: `interpret(__file__)` there runs the file again.
`-k` and an expression after it choose tests.
"""

import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu"  # where the kernels' tests run: conftest.py's --device


def backends() -> list[str]:
    """What this process can test, each under the name of its backend."""
    if DEVICE != "cpu":
        return ["triton", "torch"]
    return ["triton"] if INTERPRETED else ["torch", "cpu"]


def interpret(file: str, *options: str) -> None:
    """Run the tests of this file with kernels interpreted; fails with their output."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-W", "ignore::RuntimeWarning", file, *options]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def patch_once() -> None:
    """Triton replaces its language's functions anew at each call within a kernel, which takes most
    of the time; here once for each module that has kernels, to stay. 3.5 never puts them back."""
    from triton.runtime import interpreter

    patch, modules = interpreter._patch_lang, set()
    scope = getattr(interpreter, "_LangPatchScope", lambda: None)

    def once(function):
        if function.__module__ not in modules:
            modules.add(function.__module__)
            patch(function)
        return scope()

    interpreter._patch_lang = once

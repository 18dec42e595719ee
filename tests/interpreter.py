"""Triton's interpreter, which must be chosen before the kernels are imported.

So the tests that interpret run in a child process: `interpret(__file__)` there runs the file again.
`-k` and an expression after it choose tests.
"""

import os
import subprocess
import sys
from collections.abc import Callable

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
    _remember_types()


def _remember_types() -> None:
    """Triton describes each value's type and shape anew; here once a type, a third of all time."""
    from triton.language import core
    from triton.runtime import interpreter

    interpreter._get_np_dtype = _by(lambda kind: kind.name, interpreter._get_np_dtype)
    make, known = core.tensor.__init__, {}

    def tensor(self, handle, type):
        if type.name not in known:
            make(self, handle, type)
            known[type.name] = {k: v for k, v in vars(self).items() if k != "handle"}
        self.__dict__ |= known[type.name] | {"handle": handle}

    core.tensor.__init__ = tensor
    describe, blocks = core.block_type.__init__, {}

    def block(self, element_ty, shape):
        key = element_ty.name, tuple(getattr(n, "value", n) for n in shape)
        if key not in blocks:
            describe(self, element_ty, shape)
            blocks[key] = vars(self)
        self.__dict__ |= blocks[key]

    core.block_type.__init__ = block


def _by(key: Callable, function: Callable) -> Callable:
    """`function`, called once for each `key` of its argument."""
    known: dict = {}

    def remembered(argument):
        if (name := key(argument)) not in known:
            known[name] = function(argument)
        return known[name]

    return remembered

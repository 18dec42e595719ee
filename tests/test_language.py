"""The domain's language: every program of the domain is in it, and nothing that reaches out."""

import random

import pytest

from ssd_probe.tiny import domain
from ssd_probe.tiny.language import speaks


def test_the_domain_speaks_it():
    rng = random.Random(0)
    for split in ("ssd", "dev", "test"):
        for problem in domain.problems(split, 200):
            assert speaks(problem.program(rng, careful=False)), problem.program(rng)
            assert speaks(problem.solution)


@pytest.mark.parametrize("code", [
    "import os", "from os import path", "__import__('os')", "open('x')", "eval('1')", "exec('1')",
    "def solve(xs):\n    return xs.__class__", "def solve(xs):\n    return getattr(xs, 'a')",
    "def solve(xs):\n    return (x for x in xs).gi_frame", "x = 'text'", "x = b'bytes'", "f'{1}'",
    "def solve(xs):\n    return print(xs)", "class A: pass", "with x: pass", "try: x\nexcept: y",
    "def solve(xs): return globals()", "@f\ndef g(): pass", "global x", "async def f(): pass",
    "x = breakpoint", "input()", "def _f(): pass", "del x", "assert x", "raise x", "x.y = 1",
    "def solve(xs):\n  return (", "\0", "(" * 5000, "match x:\n    case 1: pass", "yield 1",
])  # fmt: skip
def test_what_reaches_out_does_not(code):
    assert not speaks(code)


def test_a_wrong_but_harmless_program_does():
    assert speaks("def solve(xs):\n    ys = [x * 2 for x in xss if not x % 2]\n    return ys[0]")

"""Values on their way out of the box, and how they are compared."""

import json
import math
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum

import numpy as np
import pytest

from ssd_probe.execution import judge
from ssd_probe.execution.candidate import DEPTH, TooLargeError, decode, encode
from ssd_probe.execution.judge import same_output
from ssd_probe.problems.tasks import Task
from tests.test_evaluate import pytestmark, verdict  # noqa: F401 (skips where no box is)

VALUES = [
    *(None, True, 0, -3, 2**62, 2**64, -(10**5000), 1.5, -0.0, math.inf, "text", "\ud800", "\0é"),
    *([1, [2, (3,)]], (1, "a"), {1, 2, (3, 4)}, {"b": 1, 2: [3], (4,): {5}}, b"\0\xff", 1 + 2j),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_survive_the_way(value):
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, dict):
        assert list(back) == list(value)


def test_what_has_a_builtin_base_travels_as_that():
    point = namedtuple("point", "x y")
    level = IntEnum("level", "low high")
    given = [Counter("aab"), OrderedDict(a=1), point(1, 2), level.high, np.float64(0.5)]
    assert decode(encode(given)) == [{"a": 2, "b": 1}, {"a": 1}, (1, 2), 2, 0.5]
    assert decode(encode([np.int64(3), np.arange(3), np.bool_(True)])) == [3, [0, 1, 2], True]
    assert math.isnan(decode(encode(math.nan)))


def test_anything_else_equals_nothing():
    tree = encode(object())
    assert tree == {"o": "object"}
    assert decode(tree) != decode(tree)


@pytest.mark.parametrize("value", ["x" * 101, [0] * 101, b"x" * 60, {i: i for i in range(60)}])
def test_large_values_are_refused(value):
    encode(value)
    with pytest.raises(TooLargeError, match="too large"):
        encode(value, 100)


def test_deep_values_are_refused():
    value: list = []
    for _ in range(DEPTH):
        value = [value]
    encode(value)
    with pytest.raises(TooLargeError, match="nested"):
        encode([value])


@pytest.mark.parametrize(
    "tree",
    [{}, {"t": 1}, {"x": 1}, {"d": [1]}, {"b": "zz"}, {"i": 5}, {"s": [[1]]}, {"t": [], "s": []}],
)
def test_what_is_no_value_is_refused(tree):
    with pytest.raises(ValueError):
        decode(tree)


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1 2  \n 3", "1 2\n3\n\n", True),
        ("1.0 2", "1 2.00", True),
        ("1e2", "100", True),
        ("YES", "yes", False),
        ("1 2", "1 2 3", False),
        ("1\n2", "1", False),
        ("1\n\n2", "1\n2", False),
        ("0.1", "0.10000001", False),
        ("nan", "1", False),
        ("sNaN", "1", False),
        ("", "", True),
        ("1 a", "1.0 a", False),
    ],
)
def test_outputs_are_compared_as_livecodebench_does(got, expected, same):
    assert same_output(got, expected) is same


@pytest.mark.parametrize(
    ("value", "expected", "exact", "loose"),
    [
        ("1", 1, "pass", "pass"),
        ("1.0", 1, "wrong", "pass"),
        ("True", 1, "wrong", "pass"),
        ("(1, [2])", [1, [2]], "pass", "pass"),
        ("[1, 2]", [2, 1], "wrong", "wrong"),
        ("{'b': 1, 'a': 2}", {"a": 2, "b": 1}, "pass", "pass"),
        ("float('nan')", math.nan, "pass", "wrong"),
        ("None", [], "wrong", "wrong"),
        ("'1'", 1, "wrong", "wrong"),
    ],
)
def test_results_are_compared_by_type_or_by_value(value, expected, exact, loose):
    for is_exact, right in ((True, exact), (False, loose)):
        task = Task("p", entry="f", tests=(([], expected),), exact=is_exact)
        assert verdict(f"def f():\n    return {value}", task) == right


def test_a_limit_of_the_task_is_for_each_of_its_calls():
    code = "import time\ndef f(s):\n    time.sleep(s)\n    return s"
    task = Task("p", entry="f", tests=(([0.7], 0.7),) * 3, seconds=1.5)
    assert verdict(code, task, seconds=0.1) == "pass"
    assert verdict(code.replace("sleep(s)", "sleep(9)"), task) == "timeout"


def test_a_check_that_asks_with_too_much_is_the_benchmarks_fault(monkeypatch):
    """More than `OUR_BYTES` of the oracle: an infra_error, never the program's verdict."""
    monkeypatch.setattr(judge, "OUR_BYTES", 1000)
    program = "def f(text):\n    return len(text)"
    for size, expected in ((500, "pass"), (2000, "infra_error")):
        check = f"def check(candidate):\n    assert candidate('x' * {size}) == {size}"
        assert verdict(program, Task("p", kind="check", entry="f", check=check)) == expected

# pass: dataclasses, typing hints and `__main__` looked up
import sys
from dataclasses import dataclass
from typing import get_type_hints


@dataclass
class Total:
    value: "int"


def solve(xs):
    assert get_type_hints(Total) == {"value": int}
    assert sys.modules["__main__"].Total is Total
    return Total(sum(xs)).value

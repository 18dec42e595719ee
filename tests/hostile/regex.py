# timeout: catastrophic regular expression
import re


def solve(xs):
    re.match(r"(a+)+$", "a" * 60 + "b")
    return sum(xs)

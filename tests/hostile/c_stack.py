# crash|error|memory|timeout: the C stack, by nested reprs
import sys

sys.setrecursionlimit(10**9)


def deeper(n):
    return deeper(n + 1) + 1


def solve(xs):
    value = []
    for _ in range(10**6):
        value = [value]
    repr(value)
    return deeper(0)

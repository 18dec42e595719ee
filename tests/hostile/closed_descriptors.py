# crash: every descriptor closed
import os

os.closerange(0, 256)


def solve(xs):
    return sum(xs)

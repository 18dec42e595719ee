# crash: exit 0 inside the first call
import os


def solve(xs):
    os._exit(0)

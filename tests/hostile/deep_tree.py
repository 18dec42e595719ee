# pass|timeout: a tree of 1,200 folders, each closed to all
import os


def solve(xs):
    os.umask(0)
    os.chdir("/tmp")
    for _ in range(1_200):
        name = f"d{len(os.listdir('.'))}"
        os.mkdir(name, 0o700)
        os.chdir(name)
    for _ in range(1_200):
        os.umask(0o777)
        os.mkdir("closed", 0o000)
        os.chdir("..")
    return sum(xs)

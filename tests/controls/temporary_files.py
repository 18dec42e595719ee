# pass: files in /tmp
import tempfile


def solve(xs):
    with tempfile.TemporaryFile("w+") as file:
        file.write(" ".join(map(str, xs)))
        file.seek(0)
        return sum(map(int, file.read().split()))

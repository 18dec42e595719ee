# timeout|error|wrong|crash: reads the jobs of programs that come later
import os


def solve(xs):
    for descriptor in range(3, 64):
        try:
            os.set_blocking(descriptor, True)
            while os.read(descriptor, 65536):
                pass
        except OSError:
            pass
    return None

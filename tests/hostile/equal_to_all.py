# wrong: a result whose == is always true
class Anything(int):
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = int.__hash__


def solve(xs):
    return Anything(-1)

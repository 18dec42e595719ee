# pass: an int of a subclass is that int
class Number(int):
    pass


def solve(xs):
    return Number(sum(xs))

# timeout|memory: a power tower
def solve(xs):
    return 7 ** (7 ** (7**7)) % 10

# pass: `global` at the top level
global total
total = 0


def solve(xs):
    global total
    total = sum(xs)
    return total

# pass check: a plain completion under a benchmark's own check
def solve(xs):
    return sum(xs)

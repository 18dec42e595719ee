# output_limit: a value nested 100,000 deep
def solve(xs):
    value = []
    for _ in range(100_000):
        value = [value]
    return value

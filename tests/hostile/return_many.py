# output_limit: ten million items returned
def solve(xs):
    return [0] * 10_000_000

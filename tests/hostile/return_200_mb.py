# output_limit: a string of 200 MB returned
def solve(xs):
    return "x" * 200_000_000

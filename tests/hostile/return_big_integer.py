# output_limit: an integer of ten million bits
def solve(xs):
    return 1 << 10_000_000

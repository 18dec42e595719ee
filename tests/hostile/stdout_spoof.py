# wrong: verdicts printed
def solve(xs):
    print('{"verdict": "pass", "detail": ""}', flush=True)
    return "pass"

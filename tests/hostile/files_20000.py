# pass|timeout: 20,000 files
def solve(xs):
    for i in range(20_000):
        open(f"/tmp/file-{i}", "w").close()
    return sum(xs)

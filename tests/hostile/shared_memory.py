# pass: shared memory left behind
def solve(xs):
    with open("/dev/shm/ssd-probe-left", "wb") as file:
        file.write(b"x" * 1_000_000)
    return sum(xs)

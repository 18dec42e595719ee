# pass: sixteen threads
from concurrent.futures import ThreadPoolExecutor


def solve(xs):
    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(int, xs))

# error|timeout|memory|crash: as many threads as it can get
import threading
import time

threading.stack_size(32768)


def solve(xs):
    for _ in range(100_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return sum(xs)
